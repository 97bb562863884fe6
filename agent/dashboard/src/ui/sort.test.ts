import { expect, test } from "vitest";
import { readSort, sortRows, writeSort } from "./sort";

test("absent values are last in both directions", () => {
  const rows = [2, null, 10];
  expect(sortRows(rows, (row) => row, false)).toEqual([2, 10, null]);
  expect(sortRows(rows, (row) => row, true)).toEqual([10, 2, null]);
});

test("numbers in names count as numbers", () => {
  expect(sortRows(["n10", "n9"], (row) => row, false)).toEqual(["n9", "n10"]);
});

test.each(["p95", "-p95"])("%s survives", (text) => {
  expect(writeSort(readSort(text))).toBe(text);
});
