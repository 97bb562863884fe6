import { expect, test } from "vitest";
import { findEntries, runPrefix } from "./search-entries";

const entry = (kind: string, name: string, context = "") => ({ kind, name, context });
const ENTRIES = [
  entry("Graph", "Checkout", "shop"),
  entry("Node", "Retry-pay", "shop / Checkout"),
  entry("Node", "pay", "shop / Checkout"),
  entry("Node", "payout", "bank / Transfer"),
];
const names = (text: string) => findEntries(ENTRIES, text).map(({ name }) => name);

test("the equal name comes first, then those that begin with it", () => {
  expect(names("PAY")).toEqual(["pay", "payout", "Retry-pay"]);
});

test("every word has to match, also where something is", () => {
  expect(names("pay bank")).toEqual(["payout"]);
  expect(names("pay nowhere")).toEqual([]);
  expect(names("  ")).toHaveLength(ENTRIES.length);
});

test("a run is found by the beginning of its id", () => {
  const runs = [entry("Run", "5f3a09bc-12", "shop / Checkout, failed at pay")];
  for (const text of ["5f3a", " 5F3A09BC-12 "]) {
    expect(findEntries(runs, text)).toEqual(runs);
  }
  expect(findEntries(runs, "5f3a failed")).toEqual(runs);
});

test("one word of some length may be the beginning of an id", () => {
  expect(runPrefix(" 5f3a ")).toBe("5f3a");
  for (const text of ["", " ", "5", "5f3a failed"]) expect(runPrefix(text)).toBeNull();
});
