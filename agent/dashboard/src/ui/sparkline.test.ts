import { expect, test } from "vitest";
import { linePath } from "./sparkline";

test("the largest value is at the top, and a gap interrupts the line", () => {
  expect(linePath([0, 2, null, 1, 1])).toBe("M0.0 21.0L24.0 1.0M72.0 11.0L96.0 11.0");
});

test("nothing and zeros are drawn at the bottom", () => {
  expect(linePath([])).toBe("");
  expect(linePath([0, 0])).toBe("M0.0 21.0L96.0 21.0");
});
