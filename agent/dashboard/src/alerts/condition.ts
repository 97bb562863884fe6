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

/** Returns the unit of a rule's values: where it has none, what its metric counts. */
export function valueUnit({ condition, unit }: { condition: string; unit: string }) {
  if (unit) return unit;
  const metric = /^\w+/.exec(condition)?.[0] ?? "";
  if (/_over_usual$|_factor$/.test(metric)) return "times";
  return metric === "action_drift" ? "standard deviations" : "";
}

const because = (reason: string, ...metrics: string[]) =>
  metrics.map((metric): [string, string] => [metric, reason]);

// Why a metric is not stored over time.
const NOT_STORED = new Map([
  ...because(
    "the present is compared with what is usual, and the result is not stored",
    ...["latency_over_usual", "cost_over_usual", "visits_over_usual"],
    ...["missing_runs", "action_drift", "runaway_factor"],
  ),
  ...because(
    "the state of processes is known for the present only",
    ...["memory_rss", "cpu_percent", "processes_died"],
  ),
  ...because(
    "the visits of single runs are not stored",
    ...["run_visits_max", "node_visits_max"],
  ),
  ...because(
    "it is computed for the window of the rule only",
    ...["dead_ends", "unreached_runs", "llm_wasted_share"],
  ),
  ...because("it is about the last evaluation only", "alerts_refused"),
  ...because("it is about the last snapshot only", "export_rejected"),
]);

/** Returns why the values of a condition are no line over time; null if they are one. */
export function reasonWithoutLine(text: string): string | null {
  const condition = parseCondition(text);
  const metric = condition?.metric ?? /^\w+/.exec(text)?.[0] ?? "";
  const reason = NOT_STORED.get(metric);
  if (reason !== undefined) return reason;
  return condition ? null : "the condition does not compare one stored metric";
}

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
