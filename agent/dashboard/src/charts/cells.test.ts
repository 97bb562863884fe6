import { expect, test } from "vitest";
import type { Heatmap } from "../api/types";
import { cellAt, strength, usedRows } from "./cells";

const heatmap: Heatmap = {
  step: 10,
  start: 100,
  end: 130,
  first: 100,
  columns: 3,
  bounds: [0.1, 0.2, 0.4, 0.8],
  cells: [
    [0, 1, 5],
    [2, 2, 1],
  ],
};

test("a cell has its time and its durations", () => {
  expect(cellAt(heatmap, 2, 2)).toEqual({
    time: 120,
    least: 0.2,
    most: 0.4,
    executions: 1,
  });
  expect(cellAt(heatmap, 1, 0).executions).toBe(0);
});

test("rows without cells are left out, but for one on each side", () => {
  expect(usedRows(heatmap)).toEqual([0, 3]);
  expect(usedRows({ ...heatmap, cells: [] })).toEqual([0, 0]);
});

test("one execution among a million is visible", () => {
  expect(strength(1, 1e6)).toBeGreaterThan(0.15);
  expect(strength(1e6, 1e6)).toBe(1);
  expect(strength(0, 5)).toBe(0);
});
