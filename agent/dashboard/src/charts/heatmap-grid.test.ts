import { expect, test } from "vitest";
import { cellAt, shade } from "./heatmap-grid";

const GRID = { left: 60, width: 100, height: 50, columns: 10, rows: 5 };

test("a pixel belongs to one cell, counted from the bottom left", () => {
  expect(cellAt(GRID, 60, 49.9)).toEqual([0, 0]);
  expect(cellAt(GRID, 159.9, 0.1)).toEqual([9, 4]);
  expect(cellAt(GRID, 59, 10)).toEqual([-1, -1]);
  expect(cellAt(GRID, 100, 51)).toEqual([-1, -1]);
});

test("one execution among thousands is visible", () => {
  expect(shade(1, 10_000)).toBeGreaterThan(0.15);
  expect(shade(7, 7)).toBe(1);
});
