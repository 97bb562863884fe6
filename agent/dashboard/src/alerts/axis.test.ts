import { expect, test } from "vitest";
import { barPosition, listTicks } from "./axis";

test("the marks of an axis are round times", () => {
  expect(listTicks(1000, 1300, 0)).toEqual([1020, 1080, 1140, 1200, 1260]);
  expect(listTicks(7000, 28_600, 0)).toEqual([
    7200, 10_800, 14_400, 18_000, 21_600, 25_200,
  ]);
  // Half past in UTC is the full hour in India.
  expect(listTicks(0, 14_400, 19_800)).toEqual([1800, 5400, 9000, 12_600]);
  for (const seconds of [60, 300, 900, 3600, 86_400, 2_592_000]) {
    const ticks = listTicks(17, 17 + seconds, 3600);
    expect(ticks.length).toBeGreaterThan(2);
    expect(ticks.length).toBeLessThan(9);
  }
});

test("a bar covers its part of the range; one that lasts goes to the end", () => {
  expect(barPosition({ start: 120, end: 140 }, 100, 200)).toEqual({
    left: 20,
    width: 20,
  });
  expect(barPosition({ start: 50, end: 110 }, 100, 200)).toEqual({
    left: 0,
    width: 10,
  });
  expect(barPosition({ start: 150, end: null }, 100, 200)).toEqual({
    left: 50,
    width: 50,
  });
  const short = barPosition({ start: 200, end: 200 }, 100, 200);
  expect(short.width).toBeGreaterThan(0);
  expect(short.left + short.width).toBe(100);
});
