// The order and the words of runs.
import type { RunEnd, RunInProgress, Trouble } from "../api/types";

/** What each trouble means, the most urgent first. */
export const TROUBLES: Record<Trouble, string> = {
  stuck: "its node runs many times longer than its slowest finished execution",
  looping: "it visits a node many more times than earlier runs",
  retrying: "its last two calls of exec failed, and none has succeeded since",
};
const URGENCY = Object.keys(TROUBLES) as Trouble[];

/** Returns the runs in trouble, the most urgent first, then the longest in progress. */
export function sortInProgress(runs: readonly RunInProgress[]): RunInProgress[] {
  return [...runs].sort((a, b) => urgency(a) - urgency(b) || a.start - b.start);
}

function urgency({ trouble }: RunInProgress): number {
  const indexes = trouble.map((each) => URGENCY.indexOf(each));
  return Math.min(URGENCY.length, ...indexes);
}

/** Returns why a run ended, in words. */
export function describeReason(reason: string, action: string): string {
  switch (reason) {
    case "no_successors":
      return "reached the end of the graph";
    case "unmatched_action":
      return `dead end: no edge for "${action}"`;
    case "error":
      return "an exception";
    case "cancelled":
      return "cancelled";
    case "unknown":
      return "not known";
    default:
      return reason;
  }
}

/** Whether runs should not end like this. */
export function isBadEnd({ reason }: Pick<RunEnd, "reason">): boolean {
  return reason === "error" || reason === "unmatched_action";
}

/** Returns a path with repeats counted: "Load › (Draft › Review) ×3 › Send". */
export function describePath(path: readonly string[]): string {
  const parts: string[] = [];
  let at = 0;
  while (at < path.length) {
    const { length, times } = longestRepeat(path, at);
    const names = path.slice(at, at + length).join(" › ");
    if (times === 1) parts.push(names);
    else parts.push(`${length > 1 ? `(${names})` : names} ×${times}`);
    at += length * times;
  }
  return parts.join(" › ");
}

/** Returns a path by first visits: "Load › Draft ×12 › Review ×11 › Draft". */
export function describeVisits(
  path: readonly string[],
  visits: readonly number[],
): string {
  return path
    .map((name, index) =>
      (visits[index] ?? 1) > 1 ? `${name} ×${visits[index]}` : name,
    )
    .join(" › ");
}

const MAX_LOOP = 12;

/** Returns the repeated part that covers most of what follows; else one single node. */
function longestRepeat(path: readonly string[], start: number) {
  let best = { length: 1, times: 1 };
  for (let length = 1; length <= MAX_LOOP; length++) {
    let times = 1;
    while (isRepeated(path, start, length, times)) times++;
    if (times > 1 && length * times > best.length * best.times)
      best = { length, times };
  }
  return best;
}

function isRepeated(
  path: readonly string[],
  start: number,
  length: number,
  times: number,
): boolean {
  const next = start + length * times;
  if (next + length > path.length) return false;
  for (let offset = 0; offset < length; offset++) {
    if (path[start + offset] !== path[next + offset]) return false;
  }
  return true;
}
