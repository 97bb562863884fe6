import { signal } from "@preact/signals";

/** Counts changes between light and dark: canvases have to be drawn again. */
export const theme = signal(0);

if (typeof window !== "undefined") {
  const changed = () => (theme.value += 1);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
  new MutationObserver(changed).observe(document.documentElement, {
    attributes: true,
  });
}

/** Returns a colour of the style sheet, such as "--good", as a canvas takes it. */
export function colour(name: string, near: Element): string {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  near.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

/** Returns a colour with another opacity, from 0 to 1. */
export function faded(value: string, opacity: number): string {
  return `color-mix(in srgb, ${value} ${Math.round(opacity * 100)}%, transparent)`;
}

// Distinct for the colour-blind too (Okabe and Ito); more lines than these repeat them.
const LINES = ["--line-1", "--line-2", "--line-3", "--line-4", "--line-5", "--line-6"];

/** Returns the name of the colour of a line by its position. */
export function lineColour(position: number): string {
  return LINES[position % LINES.length] as string;
}
