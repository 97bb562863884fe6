import { expect, test } from "vitest";
import { align, episodeSpan, seriesTable, stack, toCsv } from "./data";

const SERIES = [
  { name: "ok", points: [[10, 3, 3] as [number, number, number]] },
  {
    name: "error",
    points: [[10, 1, 1] as [number, number, number], [20, null, 0] as never],
  },
];

test("series share their times, and what is missing is a gap", () => {
  expect(align(SERIES)).toEqual({
    times: [10, 20],
    values: [
      [3, null],
      [1, null],
    ],
    counts: [
      [3, 0],
      [1, 0],
    ],
  });
});

test("a stack adds up, and keeps the gap of all series", () => {
  expect(
    stack([
      [1, null, null],
      [2, 4, null],
    ]),
  ).toEqual([
    [1, null, null],
    [3, 4, null],
  ]);
});

test("a table has a row for each time, with the unit and n", () => {
  expect(seriesTable(SERIES, "seconds")).toEqual({
    header: ["time", "ok (seconds)", "ok n", "error (seconds)", "error n"],
    rows: [
      ["1970-01-01T00:00:10Z", 3, 3, 1, 1],
      ["1970-01-01T00:00:20Z", null, 0, null, 0],
    ],
  });
});

test("CSV quotes what needs it, and runs no formula", () => {
  const table = { header: ["time", '=1+1"'], rows: [["a,b", -1.5, null]] };
  expect(toCsv(table as never)).toBe('time,"\'=1+1"""\r\n"a,b",-1.5,\r\n');
});

test("an episode is cut at the edges, and never too thin to see", () => {
  const at = (start: number, end: number | null) =>
    episodeSpan({ start, end, label: "" }, [100, 200], 1000);
  expect(at(120, 150)).toEqual({ x: 200, width: 300 });
  expect(at(50, null)).toEqual({ x: 0, width: 1000 });
  expect(at(199.99, 199.991)).toEqual({ x: 998, width: 2 });
  expect(at(0, 99)).toBeNull();
  expect(at(201, null)).toBeNull();
});
