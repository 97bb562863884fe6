// What a chart of an alert shows: its episodes, and the metric of its rule.
import type { Episode } from "../charts/data";
import type { TimelineEntry } from "./types";

const ACTIVE = new Set(["firing", "recovering"]);

/** Returns the periods in which an alert fired, from its timeline. */
export function episodes(timeline: readonly TimelineEntry[]): Episode[] {
  const list: Episode[] = [];
  for (const { time, before, after, episode } of timeline) {
    if (!after) continue;
    const last = list.at(-1);
    if (ACTIVE.has(after) && !ACTIVE.has(before)) {
      list.push({ start: time, end: null, label: `episode ${episode}` });
    } else if (!ACTIVE.has(after) && last?.end === null) {
      last.end = time;
    }
  }
  return list;
}

export interface Condition {
  /** As of rules, such as "latency_p95". */
  metric: string;
  operator: "<" | "<=" | ">" | ">=";
  threshold: number;
}

/** Reads a condition such as "latency_p95 > 0.02"; null for any other. */
export function parseCondition(text: string): Condition | null {
  const match = /^([\w.]+) (<=|>=|<|>) (-?[\d.]+(?:e[+-]?\d+)?)$/.exec(text);
  if (!match) return null;
  const [, metric = "", operator, threshold] = match;
  return {
    metric,
    operator: operator as Condition["operator"],
    threshold: Number(threshold),
  };
}

const SAME = new Set(["success_rate", "error_rate", "executions", "retries"]);
const QUERIES: Record<string, string> = {
  retry_rate: "retry_rate",
  throughput: "throughput",
  runs: "runs",
  latency_avg: "avg",
  latency_max: "max",
  latency_p50: "p50",
  latency_p90: "p90",
  latency_p95: "p95",
  latency_p99: "p99",
};

/** Returns the metric of queries that a rule's metric is drawn by; null without one. */
export function queryMetric(metric: string): string | null {
  return SAME.has(metric) ? metric : (QUERIES[metric] ?? null);
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
