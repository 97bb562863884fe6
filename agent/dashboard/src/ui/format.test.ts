import { describe, expect, test } from "vitest";
import {
  exact,
  formatAge,
  formatBytes,
  formatCount,
  formatDuration,
  formatMoney,
  formatPlural,
  formatRate,
  formatShare,
  formatTime,
  windowSeconds,
} from "./format";

describe("durations", () => {
  test.each([
    [null, "–"],
    [0, "0 s"],
    [0.0000021, "2.1 µs"],
    [0.0123, "12.3 ms"],
    [0.99949, "999 ms"],
    [0.9999, "1 s"],
    [1.984, "1.98 s"],
    [99.94, "99.9 s"],
    [99.96, "1 min 40 s"],
    [200, "3 min 20 s"],
    [3599.7, "1 h"],
    [3660, "1 h 1 min"],
    [187_200, "2 d 4 h"],
    [-2, "−2 s"],
  ])("%s s are %s", (seconds, text) => expect(formatDuration(seconds)).toBe(text));
});

test.each([
  [0, "0"],
  [9412, "9,412"],
  [1.2345, "1.23"],
  [12_345, "12.3k"],
  [999_960, "1M"],
  [4_500_000, "4.5M"],
])("%s events are %s", (count, text) => expect(formatCount(count)).toBe(text));

test.each([
  [0, "0 %"],
  [1, "100 %"],
  [0.05, "5 %"],
  [0.99954, "99.95 %"],
  [0.99999, ">99.99 %"],
  [0.000001, "<0.01 %"],
])("a share of %s is %s", (share, text) => expect(formatShare(share)).toBe(text));

test.each([
  [0, "$0"],
  [0.004, "<$0.01"],
  [0.42, "$0.42"],
  [12_345, "$12.3k"],
  [null, "–"],
])("%s dollars are %s", (dollars, text) => expect(formatMoney(dollars)).toBe(text));

test.each([
  [512, "512 B"],
  [97_900_000, "93.4 MiB"],
  [1023.9, "1 KiB"],
])("%s bytes are %s", (bytes, text) => expect(formatBytes(bytes)).toBe(text));

test.each([
  [4.2, "4.2 /s"],
  [0.05, "3 /min"],
  [0.0005, "1.8 /h"],
])("%s per second are %s", (rate, text) => expect(formatRate(rate)).toBe(text));

test("an age is whole seconds, and a past day has a date", () => {
  expect(formatAge(100, 112.9)).toBe("12 s ago");
  expect(formatAge(100, 100.2)).toBe("just now");
  expect(formatAge(100, 165)).toBe("1 min ago");
  expect(formatAge(null, 5)).toBe("never");
  const day = new Date(2026, 10, 28, 9, 5, 1).getTime() / 1000;
  expect(formatTime(day, day + 60)).toBe("09:05:01");
  expect(formatTime(day, day + 86_400)).toBe("2026-11-28 09:05:01");
});

test("one is singular", () => {
  expect(formatPlural(1, "run")).toBe("1 run");
  expect(formatPlural(0, "run")).toBe("0 runs");
  expect(formatPlural(9412, "run")).toBe("9,412 runs");
});

test("exact figures have all digits", () => {
  expect(exact(12_345.678, "s")).toBe("12,345.678 s");
  expect(exact(null)).toBeUndefined();
  expect(windowSeconds("15m")).toBe(900);
});
