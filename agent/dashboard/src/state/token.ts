// The token of an agent that requires one. It stays in the session's storage, and other
// tabs of the same agent get it from each other, never from the disk.
import { signal } from "@preact/signals";

const KEY = "kaywatch-token";

function stored(): string | null {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null; // Forbidden by the browser's settings: memory has to do.
  }
}

export const token = signal<string | null>(stored());

/** Why a token is needed; null while none is. */
export const loginReason = signal<string | null>(null);

const channel =
  typeof window === "undefined" || typeof BroadcastChannel === "undefined"
    ? null
    : new BroadcastChannel(`${KEY}:${location.pathname}`);

/** Uses a token from now on, here and in other tabs. */
export function setToken(value: string): void {
  keep(value);
  channel?.postMessage(value);
}

function keep(value: string): void {
  try {
    sessionStorage.setItem(KEY, value);
  } catch {
    // As above.
  }
  token.value = value;
  loginReason.value = null;
}

/** Asks for a token, first other tabs, then the user. */
export function requireToken(reason: string): void {
  loginReason.value = reason;
  channel?.postMessage(null);
}

channel?.addEventListener("message", ({ data }: MessageEvent<string | null>) => {
  const isRequest = data === null;
  if (isRequest && token.value && loginReason.value === null) {
    channel.postMessage(token.value);
  } else if (!isRequest && data !== token.value) keep(data);
});
