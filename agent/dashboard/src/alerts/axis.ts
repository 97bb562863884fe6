// The time axis of the episodes.
import { formatTime } from "../ui/format";
import type { AlertEpisode } from "./types";

// Seconds between two marks: round ones for people.
const STEPS = [
  10, 30, 60, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400, 172_800,
  432_000,
];
const MAX_TICKS = 7;

/** Returns round times within a range, at most seven. */
export function listTicks(start: number, end: number, offset = zoneOffset()): number[] {
  const step =
    STEPS.find((each) => (end - start) / each <= MAX_TICKS) ??
    (end - start) / MAX_TICKS;
  const ticks: number[] = [];
  // Steps of hours and days are counted from the local midnight.
  let time = Math.ceil((start + offset) / step) * step - offset;
  for (; time < end; time += step) ticks.push(time);
  return ticks;
}

/** Returns the text at a mark, without seconds, which round times do not need. */
export function axisLabel(time: number, end: number): string {
  return formatTime(time, end).replace(/:00$/, "");
}

/** Returns the seconds by which the local time is ahead of UTC. */
const zoneOffset = () => -60 * new Date().getTimezoneOffset();

const MIN_WIDTH = 0.4;

/** Returns where an episode is drawn, in percent; a short one can still be seen. */
export function barPosition(
  { start, end }: Pick<AlertEpisode, "start" | "end">,
  from: number,
  to: number,
): { left: number; width: number } {
  const share = (time: number) =>
    (100 * (Math.min(to, Math.max(from, time)) - from)) / (to - from);
  const left = Math.min(share(start), 100 - MIN_WIDTH);
  return { left, width: Math.max(MIN_WIDTH, share(end ?? to) - left) };
}
