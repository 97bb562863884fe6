import { expect, test } from "vitest";
import { hasChart, parseCondition, thresholdToml } from "./condition";

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

test("what is stored over time has a chart", () => {
  expect(hasChart("latency_p95")).toBe(true);
  expect(hasChart("llm_cost_per_hour")).toBe(true);
  expect(hasChart("custom.queue_depth.last")).toBe(true);
  expect(hasChart("memory_rss")).toBe(false);
});

test("the lines to copy name the rule, or the built-in threshold", () => {
  expect(thresholdToml({ rule: "slow", built_in: false }, 0.03, 0.02)).toBe(
    '[[rule]]\nname = "slow"\nvalue = 0.03  # was 0.02\n',
  );
  expect(thresholdToml({ rule: "error_rate_max", built_in: true }, 0.1, 0.05)).toBe(
    "[alerting.thresholds]\nerror_rate_max = 0.1  # was 0.05\n",
  );
});
