// Values that are requested, at once and then every few seconds.
import { useEffect, useState } from "preact/hooks";
import { request } from "../api/client";
import { nextUpdate } from "./live";

export interface Polled<T> {
  /** The key that `value` was loaded for. */
  key: string | null;
  value: T | null;
  error: Error | null;
}

type Parameters = Record<string, string | number | null | undefined>;

/** Requests JSON, anew when the parameters change and every `seconds` (null: once). */
export function useRequest<T>(
  path: string,
  parameters: Parameters = {},
  seconds: number | null = 5,
): Polled<T> {
  return usePolled<T>(
    JSON.stringify([path, parameters]),
    (stop) => request<T>(path, parameters, { signal: stop }),
    seconds,
  );
}

/**
 * Loads a value, anew when the key changes and every `seconds` (null: once). The last
 * value stays until the next one arrives, so that nothing flickers. Without a key, nothing
 * is loaded.
 */
export function usePolled<T>(
  key: string | null,
  load: (stop: AbortSignal) => Promise<T>,
  seconds: number | null,
): Polled<T> {
  const [polled, setPolled] = useState<Polled<T>>({
    key: null,
    value: null,
    error: null,
  });
  useEffect(() => {
    if (key === null) {
      setPolled({ key, value: null, error: null });
      return;
    }
    const stop = new AbortController();
    let timer: ReturnType<typeof setTimeout>;
    let isLoaded = false;
    const next = async () => {
      if (!document.hidden || !isLoaded) {
        try {
          const value = await load(stop.signal);
          // A frame of its own would lay out and paint a large table once more.
          if (isLoaded) await nextUpdate(stop.signal);
          if (stop.signal.aborted) return;
          isLoaded = true;
          setPolled({ key, value, error: null });
        } catch (error) {
          if (stop.signal.aborted) return;
          setPolled((before) => ({ ...before, error: error as Error }));
        }
      }
      if (seconds !== null) timer = setTimeout(next, seconds * 1000);
    };
    void next();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [key, seconds]);
  return polled;
}
