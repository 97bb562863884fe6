// The latency heatmap: cells of a time and a range of durations.
import type { Heatmap } from "../api/types";

export interface Cell {
  /** When its column begins, and the durations of its row. */
  time: number;
  least: number;
  most: number;
  executions: number;
}

/** Returns the rows that have cells, from the shortest durations, with one row around. */
export function usedRows({ cells, bounds }: Heatmap): [first: number, last: number] {
  const rows = cells.map(([, row]) => row);
  if (!rows.length) return [0, 0];
  return [
    Math.max(0, Math.min(...rows) - 1),
    Math.min(bounds.length - 1, Math.max(...rows) + 1),
  ];
}

/** Returns the cell at a column and a row. */
export function cellAt(heatmap: Heatmap, column: number, row: number): Cell {
  const { first, step, bounds, cells } = heatmap;
  const found = cells.find(([x, y]) => x === column && y === row);
  return {
    time: first + column * step,
    least: row > 0 ? (bounds[row - 1] ?? 0) : 0,
    most: bounds[row] ?? Infinity,
    executions: found?.[2] ?? 0,
  };
}

/** Returns how strong a cell is drawn, from 0 to 1: single executions stay visible. */
export function strength(executions: number, most: number): number {
  if (executions <= 0 || most <= 0) return 0;
  return 0.18 + 0.82 * (Math.log1p(executions) / Math.log1p(most));
}
