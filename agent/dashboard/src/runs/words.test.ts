import { expect, test } from "vitest";
import type { EndedRun, RunInProgress } from "../api/types";
import { describeCost, describeRun, exactCost } from "./words";

const ended: EndedRun = {
  ...{ service: "shop", graph: "order", run: "5f-1", time: 100, seconds: 2 },
  ...{ outcome: "error", reason: "error", node: "Pay", action: "" },
  ...{ visits: 2, path: ["Load", "Pay"], path_visits: [] },
};
const current = { run: "5f-2", node: "Ask", start: 0 } as RunInProgress;

test("a run that failed", () => {
  expect(describeRun("5f-1", ended, [])).toBe("Run 5f-1 ended at Pay: an exception.");
  const looped = { ...ended, visits: 5, path_visits: [1, 4] };
  expect(describeRun("5f-1", looped, [])).toContain(
    "It made 5 visits; the numbers are the order of first visits, and how often",
  );
});

test("a run that went on after a hidden failure", () => {
  const went = { ...ended, outcome: "fallback", reason: "unknown" } as EndedRun;
  expect(describeRun("5f-1", went, [])).toBe(
    "Run 5f-1 went on after a failure at Pay, which a fallback hid; its path is known up to there.",
  );
});

test("a run that has not ended, and one that nobody knows", () => {
  expect(describeRun("5f-2", null, [current])).toContain("is in progress at Ask.");
  expect(describeRun("5f-3", null, [current])).toContain("no longer kept");
});

test("what a run has cost so far, and what has no price", () => {
  const cost = (cost_usd: number | null, tokens: number, unpriced_tokens: number) => ({
    ...{ cost_usd, tokens, unpriced_tokens },
  });
  expect(describeCost(cost(0.42, 900, 0))).toBe("$0.42");
  expect(describeCost(cost(0.42, 2100, 1200))).toBe(
    "$0.42 + 1,200 tokens without a price",
  );
  expect(describeCost(cost(null, 1200, 1200))).toBe("1,200 tokens without a price");
  expect(describeCost(cost(0, 900, 0))).toBe("$0");
  expect(describeCost(cost(null, 0, 0))).toBe("–");
  expect(exactCost(cost(null, 0, 0))).toBeUndefined();
  expect(exactCost(cost(0.421234, 2100, 1200))).toBe(
    "0.421234 USD, 2,100 tokens so far, 1,200 of them without a price",
  );
});
