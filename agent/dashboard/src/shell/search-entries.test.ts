import { expect, test } from "vitest";
import { findEntries } from "./search-entries";

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
