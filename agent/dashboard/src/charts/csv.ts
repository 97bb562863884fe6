// Tables as CSV (RFC 4180).
import { align, type Line } from "./align";

type Cell = string | number | null;

/** Returns rows as CSV. Texts that a spreadsheet would run as formulas are quoted. */
export function toCsv(rows: readonly (readonly Cell[])[]): string {
  return rows.map((row) => row.map(field).join(",") + "\r\n").join("");
}

/** Returns lines as CSV: times in ISO 8601, exact values, and their number of events. */
export function linesToCsv(lines: readonly Line[]): string {
  const { times } = align(lines);
  const byTime = lines.map((line) => new Map(line.points.map((p) => [p[0], p])));
  const head = ["time", ...lines.flatMap(({ name }) => [name, `${name} n`])];
  const body = times.map((time) => [
    new Date(time * 1000).toISOString(),
    ...byTime.flatMap((points) => {
      const point = points.get(time);
      return [point?.[1] ?? null, point?.[2] ?? null];
    }),
  ]);
  return toCsv([head, ...body]);
}

function field(cell: Cell): string {
  if (cell === null) return "";
  if (typeof cell === "number") return String(cell);
  const text = /^[=+\-@\t\r]/.test(cell) ? `'${cell}` : cell;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
