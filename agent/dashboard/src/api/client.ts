import { requireToken, token } from "../state/token";

/** An error that the agent answered, with its hint. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly hint: string,
  ) {
    super(message);
  }
}

type Parameters = Record<string, string | number | boolean | null | undefined>;

/** Returns an address relative to the page, so that it works behind a path prefix. */
export function address(path: string, parameters: Parameters = {}): string {
  const params = new URLSearchParams();
  for (const [key, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined) params.set(key, String(value));
  }
  const text = params.toString();
  return path.replace(/^\//, "") + (text ? `?${text}` : "");
}

/** Requests JSON from the agent; throws ApiError for every response but a success. */
export async function request<T>(
  path: string,
  parameters: Parameters = {},
  options: RequestInit = {},
): Promise<T> {
  const sent = token.value;
  const response = await fetch(address(path, parameters), {
    ...options,
    headers: { ...authorization(), ...options.headers },
  });
  if (!response.ok) throw await readError(response, sent);
  return (await response.json()) as T;
}

/** Sends a JSON body. */
export function send<T>(method: "POST" | "DELETE", path: string, body: unknown) {
  return request<T>(
    path,
    {},
    {
      method,
      body: JSON.stringify(body),
      headers: { "Content-Type": "application/json" },
    },
  );
}

/** Returns the header with the token, if there is one. */
export function authorization(): Record<string, string> {
  return token.value ? { Authorization: `Bearer ${token.value}` } : {};
}

/**
 * Returns the error of a response; asks for a token if that is what it needs, and the one
 * that was sent has not been replaced meanwhile.
 */
export async function readError(
  response: Response,
  sent: string | null,
): Promise<ApiError> {
  const fallback = { code: "unknown", message: response.statusText, hint: "" };
  const body = await response.json().catch(() => null);
  const error = { ...fallback, ...body?.error };
  if (response.status === 401 && sent === token.value) requireToken(error.message);
  return new ApiError(response.status, error.code, error.message, error.hint);
}
