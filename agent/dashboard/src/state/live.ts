// The event stream, one per browser: the tab that holds a lock reads it and broadcasts the
// events; the others decode them too. A browser allows six connections to an agent, which
// ten tabs would exhaust. Where locks are missing (plain HTTP), each tab has a stream.
import { batch, computed, effect, signal } from "@preact/signals";
import { ApiError, address, authorization, readError } from "../api/client";
import { decode, type LiveState } from "../api/decode";
import type { Live, Period } from "../api/types";
import { windowSeconds } from "../ui/format";
import { readEvents, type ServerEvent } from "./events";
import { route } from "./route";
import { loginReason, token } from "./token";

export interface Connection {
  state: "connecting" | "live" | "disconnected";
  /** When that began, in seconds of this machine's clock. */
  since: number;
  error: string;
}

/** The latest figures; null before the first event. */
export const live = signal<Live | null>(null);
export const connection = signal<Connection>(connectionNow("connecting"));
/** When the latest event arrived, and the present, by this machine's clock. */
export const arrival = signal(0);
export const localTime = signal(localNow());

/** The agent's clock: its own time, and what has passed here since. */
export const agentTime = computed(() =>
  live.value
    ? live.value.time + Math.max(0, localTime.value - arrival.value)
    : localTime.value,
);

// An update arrives each second; a slow agent may miss one or two.
const STALE_SECONDS = 4;
/** Whether updates have ceased although the connection is open. */
export const isStale = computed(
  () =>
    connection.value.state === "live" &&
    localTime.value - arrival.value > STALE_SECONDS,
);

const STREAM_WINDOWS = new Set(["1m", "5m", "15m", "1h"]);
/** The window of the stream; longer ones are requested by the views. */
export const streamWindow = computed(() =>
  STREAM_WINDOWS.has(route.value.window) ? route.value.window : "5m",
);

// Without a byte for this long, the connection is dead: a keep-alive comes every 15 s.
const SILENCE_MS = 20_000;
const MAX_DELAY_MS = 5_000;
const UPDATE_MS = 1_000;

type Message =
  | { kind: "hello" }
  | { kind: "state"; state: LiveState | null; connection: Connection }
  | { kind: "event"; event: ServerEvent }
  | { kind: "connection"; connection: Connection };

/** Keeps the signals up to date until the page is closed. */
export function startLive(): void {
  // An update advances the clock as well: a live page is drawn once a second, even if an
  // update is a little late.
  setInterval(() => {
    const now = localNow();
    const isLive = now - arrival.value < 1.5;
    if (!isLive && now - localTime.value > 0.9) localTime.value = now;
  }, 500);
  effect(() => {
    const stop = new AbortController();
    new Stream(streamWindow.value, stop.signal).start();
    return () => stop.abort();
  });
}

/** Returns the seconds of a period that can have data: counting may have begun within it. */
export function coveredSeconds({ window, end }: Period): number {
  const { time, since } = live.value ?? { time: localTime.value, since: 0 };
  return Math.min(windowSeconds(window), Math.max(1, (end ?? time) - since));
}

/** Resolves with the next update; after a second if there is none, or `stop` aborts. */
export function nextUpdate(stop: AbortSignal): Promise<void> {
  const shown = live.peek();
  const waiting = new AbortController();
  return new Promise<void>((resolve) => {
    const dispose = effect(() => {
      if (live.value !== shown) resolve();
    });
    waiting.signal.addEventListener("abort", dispose);
    const either = AbortSignal.any([stop, waiting.signal]);
    void pause(UPDATE_MS, either).then(resolve);
  }).finally(() => waiting.abort());
}

/** The events of one window, read or received. */
class Stream {
  private state: LiveState | null = null;
  private readonly name: string;
  private readonly channel: BroadcastChannel;
  private isLeader = false;
  /** No other tab has ever been heard of: nobody reads what is broadcast. */
  private isAlone = true;

  constructor(
    private readonly window: string,
    private readonly stop: AbortSignal,
  ) {
    this.name = `kaywatch-live:${location.pathname}:${window}`;
    this.channel = new BroadcastChannel(this.name);
  }

  start(): void {
    this.channel.onmessage = ({ data }: MessageEvent<Message>) => this.receive(data);
    document.addEventListener("visibilitychange", () => this.show(), {
      signal: this.stop,
    });
    this.stop.addEventListener("abort", () => this.channel.close());
    this.post({ kind: "hello" });
    if (!("locks" in navigator)) void this.lead();
    else {
      navigator.locks
        .request(this.name, { signal: this.stop }, () => this.lead())
        .catch(() => undefined); // Aborted: the window has changed.
    }
  }

  private post(message: Message): void {
    if (!this.stop.aborted && "locks" in navigator) this.channel.postMessage(message);
  }

  private receive(message: Message): void {
    this.isAlone = false;
    if (message.kind === "hello") {
      if (this.isLeader) {
        this.post({
          kind: "state",
          state: this.state,
          connection: connection.value,
        });
      }
    } else if (this.isLeader) return;
    else if (message.kind === "event") this.apply(message.event);
    else {
      connection.value = message.connection;
      if (message.kind === "state" && message.state) {
        this.state = message.state;
        arrival.value = localNow();
        this.show();
      }
    }
  }

  /** Reads the stream, again and again, until the tab is closed. */
  private async lead(): Promise<void> {
    this.isLeader = true;
    for (let failures = 0; !this.stop.aborted; failures++) {
      const sent = token.value;
      try {
        await this.read(() => (failures = 0));
        this.report("disconnected", "the agent ended the stream");
      } catch (error) {
        if (this.stop.aborted) return;
        this.report("disconnected", describe(error));
        if (error instanceof ApiError && error.status === 401) await tokenChange(sent);
      }
      const delay = Math.min(MAX_DELAY_MS, 250 * 2 ** failures);
      await pause(delay * (0.75 + Math.random() / 2), this.stop);
    }
  }

  private async read(connected: () => void): Promise<void> {
    const silence = new AbortController();
    let timer = 0;
    const restart = () => {
      clearTimeout(timer);
      timer = window.setTimeout(() => silence.abort(), SILENCE_MS);
    };
    restart();
    const sent = token.value;
    try {
      const response = await fetch(address("api/v1/live", { window: this.window }), {
        headers: authorization(),
        signal: AbortSignal.any([this.stop, silence.signal]),
      });
      if (!response.ok || !response.body) throw await readError(response, sent);
      for await (const event of readEvents(response.body)) {
        restart();
        connected();
        if (!this.isAlone) this.post({ kind: "event", event });
        this.apply(event);
      }
    } finally {
      clearTimeout(timer);
    }
  }

  private apply(event: ServerEvent): void {
    this.state = decode(this.state, event.name, JSON.parse(event.data));
    if (!this.state) return;
    batch(() => {
      arrival.value = localTime.value = localNow();
      if (connection.value.state !== "live") this.report("live", "");
      this.show();
    });
  }

  // A hidden tab draws nothing.
  private show(): void {
    if (this.state && !document.hidden) live.value = this.state.live;
  }

  private report(state: Connection["state"], error: string): void {
    const current = connection.value;
    if (current.state === state && current.error === error) return;
    const since = current.state === state ? current.since : localNow();
    connection.value = { state, since, error };
    if (this.isLeader) this.post({ kind: "connection", connection: connection.value });
  }
}

function localNow(): number {
  return Date.now() / 1000;
}

function connectionNow(state: Connection["state"]): Connection {
  return { state, since: localNow(), error: "" };
}

function describe(error: unknown): string {
  return error instanceof ApiError ? error.message : "the agent does not answer";
}

function tokenChange(before: string | null): Promise<void> {
  return new Promise((resolve) => {
    const dispose = effect(() => {
      if (token.value === before || loginReason.value !== null) return;
      resolve();
      queueMicrotask(() => dispose());
    });
  });
}

function pause(milliseconds: number, stop: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    stop.addEventListener("abort", () => (clearTimeout(timer), resolve()), {
      once: true,
    });
  });
}
