// The data of charts, without drawing: alignment, stacking, and the table behind a chart.
import type { QueryResult } from "../api/types";

export type Points = QueryResult["series"][number]["points"];

/** One line of a chart. `points` are in order of time. */
export interface Series {
  name: string;
  points: Points;
}

/** Series on common times: `values[series][time]`; null where there is no value. */
export interface Aligned {
  times: number[];
  values: (number | null)[][];
  counts: number[][];
}

/** Puts series on the times that any of them has. A time without a value is a gap. */
export function align(series: readonly Series[]): Aligned {
  const times = [
    ...new Set(series.flatMap(({ points }) => points.map(([time]) => time))),
  ].sort((left, right) => left - right);
  const rows = series.map(
    ({ points }) => new Map(points.map((each) => [each[0], each])),
  );
  return {
    times,
    values: rows.map((row) => times.map((time) => row.get(time)?.[1] ?? null)),
    counts: rows.map((row) => times.map((time) => row.get(time)?.[2] ?? 0)),
  };
}

/** Adds each series to those before it. A gap of all series stays a gap. */
export function stack(values: readonly (number | null)[][]): (number | null)[][] {
  const sums: (number | null)[] = values[0]?.map(() => null) ?? [];
  return values.map((row) =>
    row.map((value, index) => {
      if (value !== null) sums[index] = (sums[index] ?? 0) + value;
      return sums[index] ?? null;
    }),
  );
}

/** Returns series with the events of at least one point. */
export function seenSeries(series: readonly Series[]): Series[] {
  return series.filter(({ points }) => points.some(([, value]) => value));
}

export type Cell = string | number | null;

/** The table that holds the same as a chart. */
export interface DataTable {
  header: string[];
  rows: Cell[][];
}

/** Returns the series as a table: a row for each time, with n where it differs. */
export function seriesTable(series: readonly Series[], unit: string): DataTable {
  const { times, values, counts } = align(series);
  const label = (name: string) => (unit ? `${name} (${unit})` : name);
  return {
    header: ["time", ...series.flatMap(({ name }) => [label(name), `${name} n`])],
    rows: times.map((time, index) => [
      isoTime(time),
      ...series.flatMap((_, at) => [
        values[at]?.[index] ?? null,
        counts[at]?.[index] ?? 0,
      ]),
    ]),
  };
}

export function isoTime(time: number): string {
  return new Date(time * 1000).toISOString().replace(".000Z", "Z");
}

/**
 * Returns a table as CSV (RFC 4180). A name that a spreadsheet would run as a formula gets
 * an apostrophe; an absent value is empty.
 */
export function toCsv({ header, rows }: DataTable): string {
  return [header, ...rows].map((row) => row.map(csvCell).join(",") + "\r\n").join("");
}

function csvCell(cell: Cell): string {
  if (cell === null) return "";
  if (typeof cell === "number") return String(cell);
  const text = /^[=+\-@\t\r]/.test(cell) ? `'${cell}` : cell;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** An interval on a chart's time axis; `end` null: it has not ended. */
export interface Episode {
  start: number;
  end: number | null;
  label: string;
}

/**
 * Returns which pixels of the plot an episode covers, at least two so that it can be seen;
 * null if it is outside the plot.
 */
export function episodeSpan(
  episode: Episode,
  [from, to]: readonly [number, number],
  width: number,
): { x: number; width: number } | null {
  const end = episode.end ?? to;
  if (end < from || episode.start > to || to <= from) return null;
  const pixel = (time: number) =>
    ((Math.min(to, Math.max(from, time)) - from) / (to - from)) * width;
  const x = Math.min(pixel(episode.start), width - 2);
  return { x, width: Math.max(2, pixel(end) - x) };
}
