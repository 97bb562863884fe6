// What a chart of an alert shows: the metric of its rule, and its threshold.

export interface Condition {
  /** As of rules, such as "latency_p95". */
  metric: string;
  operator: "<" | "<=" | ">" | ">=";
  threshold: number;
}

/** Reads a condition such as "latency_p95 > 0.02"; null for any other. */
export function parseCondition(text: string): Condition | null {
  const match = /^(custom\..+|\w+) (<=|>=|<|>) (-?[\d.]+(?:e[+-]?\d+)?)$/.exec(text);
  if (!match) return null;
  const [, metric = "", operator, threshold] = match;
  return {
    metric,
    operator: operator as Condition["operator"],
    threshold: Number(threshold),
  };
}

// The state of processes and of runs in progress is not stored over time, nor is a
// comparison with what is usual.
const NOT_STORED = new Set([
  ...["dead_ends", "unreached_runs", "latency_over_usual", "missing_runs"],
  ...["action_drift", "cost_over_usual"],
  ...["run_visits_max", "node_visits_max", "visits_over_usual", "llm_wasted_share"],
  ...["memory_rss", "processes_died", "cpu_percent", "alerts_refused"],
]);

/** Whether the agent can compute a rule's metric for each step of a period. */
export const hasChart = (metric: string) => !NOT_STORED.has(metric);

/** Returns the lines of the configuration that set a threshold. */
export function thresholdToml(
  rule: { rule: string; built_in: boolean },
  value: number,
  before: number,
): string {
  const was = `  # was ${before}`;
  if (rule.built_in) return `[alerting.thresholds]\n${rule.rule} = ${value}${was}\n`;
  return `[[rule]]\nname = ${JSON.stringify(rule.rule)}\nvalue = ${value}${was}\n`;
}
