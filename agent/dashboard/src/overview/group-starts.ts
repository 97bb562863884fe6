// Many processes start at once: one line for those of a service.
import type { Change } from "../api/types";

const SECONDS = 60;

/** Returns changes, with starts of processes of one service within a minute as one. */
export function groupStarts(changes: readonly Change[]): Change[] {
  const groups: { change: Change; count: number }[] = [];
  const latest = new Map<string, { change: Change; count: number }>();
  for (const change of changes) {
    const same = latest.get(change.service);
    const isStart = change.kind === "process_started";
    if (isStart && same && same.change.time - change.time <= SECONDS) {
      same.count++;
      continue;
    }
    const group = { change, count: 1 };
    groups.push(group);
    if (isStart) latest.set(change.service, group);
  }
  return groups.map(({ change, count }) =>
    count === 1 ? change : { ...change, text: `${count} processes started` },
  );
}
