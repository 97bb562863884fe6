import { expect, test } from "vitest";
import { align, stack, type Line } from "./align";

const line = (name: string, ...points: [number, number | null][]): Line => ({
  name,
  points: points.map(([time, value]) => [time, value, 1]),
});

test("lines share one axis, and a gap stays a gap", () => {
  const { times, values } = align([
    line("a", [10, 1], [20, null], [30, 3]),
    line("b", [20, 5], [40, 6]),
  ]);
  expect(times).toEqual([10, 20, 30, 40]);
  expect(values).toEqual([
    [1, null, 3, null],
    [null, 5, null, 6],
  ]);
});

test("no lines have no times", () => {
  expect(align([])).toEqual({ times: [], values: [] });
});

test("the last row of a stack is the sum of all", () => {
  expect(
    stack([
      [1, null],
      [2, 4],
      [null, 1],
    ]),
  ).toEqual([
    [1, 0],
    [3, 4],
    [3, 5],
  ]);
});
