import { expect, test } from "vitest";
import { episodes, parseCondition, queryMetric, thresholdToml } from "./episodes";

const entry = (time: number, before: string, after: string, episode = 1) => ({
  time,
  before,
  after,
  episode,
  text: "",
  value: null,
});

test("an episode lasts from firing until ok, and through recovering", () => {
  expect(
    episodes([
      entry(1, "ok", "pending"),
      entry(2, "pending", "firing"),
      entry(2, "", ""),
      entry(3, "firing", "recovering"),
      entry(4, "recovering", "firing"),
      entry(5, "firing", "recovering"),
      entry(6, "recovering", "ok"),
      entry(8, "pending", "firing", 2),
    ]),
  ).toEqual([
    { start: 2, end: 6, label: "episode 1" },
    { start: 8, end: null, label: "episode 2" },
  ]);
  expect(episodes([entry(1, "pending", "ok")])).toEqual([]);
});

test("a condition with one metric has a threshold; others have none", () => {
  expect(parseCondition("latency_p95 > 0.02")).toEqual({
    metric: "latency_p95",
    operator: ">",
    threshold: 0.02,
  });
  expect(parseCondition("cost <= 1e-05")?.threshold).toBe(0.00001);
  expect(parseCondition("latency_p95 > 20 and throughput >= 1")).toBeNull();
  expect(parseCondition("no execution for 5m")).toBeNull();
  expect(queryMetric("latency_p95")).toBe("p95");
  expect(queryMetric("memory")).toBeNull();
});

test("the lines to copy name the rule, or the built-in threshold", () => {
  expect(thresholdToml({ rule: "slow", built_in: false }, 0.03, 0.02)).toBe(
    '[[rule]]\nname = "slow"\nvalue = 0.03  # was 0.02\n',
  );
  expect(thresholdToml({ rule: "error_rate_max", built_in: true }, 0.1, 0.05)).toBe(
    "[alerting.thresholds]\nerror_rate_max = 0.1  # was 0.05\n",
  );
});
