// Lines of a chart on one axis of time, as uPlot wants them.

export type Point = readonly [time: number, value: number | null, n: number];

export interface Line {
  name: string;
  points: readonly Point[];
}

export interface Aligned {
  times: number[];
  /** One row for each line; null where it has no value. */
  values: (number | null)[][];
}

/** Returns all lines at the times of any of them. A gap stays a gap. */
export function align(lines: readonly Line[]): Aligned {
  const times = [
    ...new Set(lines.flatMap((line) => line.points.map(([time]) => time))),
  ].sort((a, b) => a - b);
  const values = lines.map((line) => {
    const byTime = new Map(line.points.map(([time, value]) => [time, value]));
    return times.map((time) => byTime.get(time) ?? null);
  });
  return { times, values };
}

/** Returns each row on top of those before it, the last one being the whole. */
export function stack(values: readonly (number | null)[][]): number[][] {
  const sums: number[][] = [];
  for (const row of values) {
    const below = sums.at(-1);
    sums.push(row.map((value, at) => (value ?? 0) + (below?.[at] ?? 0)));
  }
  return sums;
}
