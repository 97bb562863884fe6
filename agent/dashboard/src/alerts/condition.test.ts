import { expect, test } from "vitest";
import {
  parseCondition,
  reasonWithoutLine,
  thresholdToml,
  valueUnit,
} from "./condition";

test("a condition with one metric has a threshold; others have none", () => {
  expect(parseCondition("latency_p95 > 0.02")).toEqual({
    metric: "latency_p95",
    operator: ">",
    threshold: 0.02,
  });
  expect(parseCondition("cost <= 1e-05")?.threshold).toBe(0.00001);
  expect(parseCondition("latency_p95 > 20 and throughput >= 1")).toBeNull();
  expect(parseCondition("no execution for 5m")).toBeNull();
  expect(parseCondition("custom.queue depth.last > 5")?.metric).toBe(
    "custom.queue depth.last",
  );
});

test("a value without a unit has that of its metric", () => {
  expect(valueUnit({ condition: "latency_over_usual > 3", unit: "" })).toBe("times");
  expect(valueUnit({ condition: "runaway_factor >= 3", unit: "" })).toBe("times");
  expect(valueUnit({ condition: "latency_p95 > 3", unit: "seconds" })).toBe("seconds");
  expect(valueUnit({ condition: "dead_ends > 0", unit: "" })).toBe("");
});

test("what is stored over time has a line, and anything else a reason", () => {
  expect(reasonWithoutLine("latency_p95 > 0.02")).toBeNull();
  expect(reasonWithoutLine("llm_cost_per_hour > 5")).toBeNull();
  expect(reasonWithoutLine("custom.queue_depth.last > 5")).toBeNull();
  expect(reasonWithoutLine("dead_ends > 0")).toMatch("the window of the rule");
  expect(reasonWithoutLine("memory_rss > 200 MiB")).toMatch("the state of processes");
  expect(reasonWithoutLine("no execution for 5m")).toMatch("one stored metric");
});

test("the lines to copy name the rule, or the built-in threshold", () => {
  expect(thresholdToml({ rule: "slow", built_in: false }, 0.03, 0.02)).toBe(
    '[[rule]]\nname = "slow"\nvalue = 0.03  # was 0.02\n',
  );
  expect(thresholdToml({ rule: "error_rate_max", built_in: true }, 0.1, 0.05)).toBe(
    "[alerting.thresholds]\nerror_rate_max = 0.1  # was 0.05\n",
  );
});
