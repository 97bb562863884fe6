// Values that are requested, at once and then every few seconds.
import { useEffect, useState } from "preact/hooks";
import { request } from "../api/client";

export interface Polled<T> {
  value: T | null;
  error: Error | null;
}

type Parameters = Record<string, string | number | null | undefined>;

/**
 * Requests JSON, anew when the parameters change and every `seconds` (null: once). The
 * last value stays until the next one arrives, so that nothing flickers.
 */
export function useRequest<T>(
  path: string,
  parameters: Parameters = {},
  seconds: number | null = 5,
): Polled<T> {
  const [polled, setPolled] = useState<Polled<T>>({ value: null, error: null });
  const key = JSON.stringify([path, parameters]);
  useEffect(() => {
    const stop = new AbortController();
    let timer: ReturnType<typeof setTimeout>;
    const load = async () => {
      if (!document.hidden || polled.value === null) {
        try {
          const value = await request<T>(path, parameters, { signal: stop.signal });
          setPolled({ value, error: null });
        } catch (error) {
          if (stop.signal.aborted) return;
          setPolled((before) => ({ ...before, error: error as Error }));
        }
      }
      if (seconds !== null && !stop.signal.aborted) {
        timer = setTimeout(load, seconds * 1000);
      }
    };
    void load();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [key, seconds]);
  return polled;
}
