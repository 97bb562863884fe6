// Colours for canvases, which do not know custom properties.
import { signal } from "@preact/signals";

/** Counts changes between light and dark, so that canvases are drawn again. */
export const scheme = signal(0);

if (typeof matchMedia !== "undefined") {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    scheme.value++;
  });
}

/** Returns the value that a custom property such as "--accent" has at present. */
export function resolveColor(property: string): string {
  const probe = document.createElement("i");
  probe.style.color = `var(${property})`;
  document.body.append(probe);
  const color = getComputedStyle(probe).color;
  probe.remove();
  return color;
}

const SERIES_COLORS = 8;
const STATUS: Record<string, string> = {
  ok: "--good",
  error: "--bad",
  fallback: "--warning",
  suppressed: "--series-4",
  cancelled: "--quiet",
  // Light, dark and apart: next to each other, orange and red look alike.
  p50: "--series-1",
  p95: "--series-2",
  p99: "--series-4",
};

/** Returns the property with the colour of a series; outcomes have their own. */
export function seriesColor(name: string, index: number): string {
  return STATUS[name] ?? `--series-${(index % SERIES_COLORS) + 1}`;
}
