// The health of a node, with the reasons for it.
//
// Strategy: a figure is compared with a rule's threshold, or with the node's own usual
// value, and never with a constant: 5 s are slow for a cache and fast for a model.
import type { TopologyNode } from "../api/types";
import { formatCount, formatDuration, formatShare } from "../ui/format";

export type HealthStatus = "good" | "warning" | "bad" | "idle" | "unknown";

export interface Health {
  status: HealthStatus;
  reasons: string[];
}

/** What an alert that fires adds to the health of a node. */
export interface FiringAlert {
  rule: string;
  severity: string;
}

// The rules wait for as many, too: below, one slow or failed execution decides a figure.
const MIN_EXECUTIONS = 20;
// A usual value is a quantile of past windows; twice as much is beyond their variation.
const UNUSUAL_FACTOR = 2;
// In standard deviations of a binomial distribution.
const BEYOND_CHANCE = 3;

/** Returns the health of a node and what it is based on. */
export function assess(
  node: TopologyNode,
  alerts: readonly FiringAlert[] = [],
): Health {
  const bad: string[] = alerts.map((alert) => `alert ${alert.rule} fires`);
  const warning: string[] = [];
  const few = node.executions < MIN_EXECUTIONS;
  for (const reason of thresholdReasons(node)) {
    if (few) warning.push(`${reason}; too few executions for the rule`);
    else bad.push(reason);
  }
  if (node.dead_ends > 0) {
    const runs = node.dead_ends === 1 ? "1 run" : `${formatCount(node.dead_ends)} runs`;
    warning.push(`${runs} ended at an action without an edge`);
  }
  if (!few) warning.push(...unusualReasons(node));
  const reasons = [...bad, ...warning];
  if (bad.length) return { status: "bad", reasons };
  if (warning.length) return { status: "warning", reasons };
  return quiet(node);
}

function quiet(node: TopologyNode): Health {
  if (node.never_reached) {
    return { status: "idle", reasons: ["no run has reached it"] };
  }
  if (node.executions === 0) {
    return { status: "idle", reasons: ["no executions in this period"] };
  }
  const references = [
    node.max_avg,
    node.min_success_rate,
    node.usual_p95,
    node.usual_error_rate,
  ];
  return references.some((value) => value !== null)
    ? { status: "good", reasons: ["within its thresholds and its usual values"] }
    : {
        status: "unknown",
        reasons: ["no rule applies, and there is too little history to compare with"],
      };
}

function thresholdReasons(node: TopologyNode): string[] {
  const reasons: string[] = [];
  const { success_rate, min_success_rate, avg, max_avg } = node;
  if (success_rate !== null && min_success_rate !== null) {
    if (success_rate < min_success_rate) {
      reasons.push(
        `success ${formatShare(success_rate)}, below ${formatShare(min_success_rate)}`,
      );
    }
  }
  if (avg !== null && max_avg !== null && avg > max_avg) {
    reasons.push(`average ${formatDuration(avg)}, above ${formatDuration(max_avg)}`);
  }
  return reasons;
}

function unusualReasons(node: TopologyNode): string[] {
  const reasons: string[] = [];
  const { usual_p95, usual_error_rate, p95, success_rate, executions } = node;
  if (usual_p95 !== null && p95 !== null && p95 > UNUSUAL_FACTOR * usual_p95) {
    reasons.push(
      `p95 ${formatDuration(p95)}, usually at most ${formatDuration(usual_p95)}`,
    );
  }
  if (usual_error_rate !== null && success_rate !== null) {
    const error = 1 - success_rate;
    const usual = usual_error_rate * executions;
    const deviation = Math.sqrt(usual * (1 - usual_error_rate));
    // One more error than usual is chance, even where none is usual.
    if (Math.round(error * executions) > usual + BEYOND_CHANCE * deviation + 1) {
      reasons.push(
        `errors ${formatShare(error)}, usually at most ${formatShare(usual_error_rate)}`,
      );
    }
  }
  return reasons;
}
