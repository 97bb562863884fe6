// What the agent answers about one node and about calls of models.
import type { Outcomes } from "../api/types";

/** GET /api/v1/nodes */
export interface NodeList {
  /** Of all pages. */
  matching: number;
  nodes: NodeSummary[];
}

/** What is known of each node of a list. */
export interface NodeSummary {
  node: string;
  services: string[];
  graphs: string[];
  total_executions: number;
  success_rate: number | null;
  error_rate: number | null;
  total_retries: number;
  p50_execution_time: number | null;
  p95_execution_time: number | null;
  outcomes: Outcomes;
}

/** GET /api/v1/nodes/{node}/stats */
export interface NodeStats extends NodeSummary {
  retry_rate: number | null;
  avg_execution_time: number | null;
  p99_execution_time: number | null;
  max_execution_time: number | null;
  avg_prep_time: number | null;
  avg_exec_time: number | null;
  avg_wait_time: number | null;
  avg_post_time: number | null;
  actions: Record<string, number>;
  errors: { type: string; phase: string; count: number }[];
  custom: CustomMetric[];
  peak_memory_mb: number | null;
  last_execution: number | null;
  completeness: number | null;
}

export interface CustomMetric {
  name: string;
  kind: "observe" | "count" | "gauge";
  labels: Record<string, string>;
  count: number;
  sum: number | null;
  avg: number | null;
  max: number | null;
  last: number | null;
  p95: number | null;
}

/** GET /api/v1/failures */
export interface Failures {
  matching: number;
  failures: Failure[];
}

export interface Failure {
  time: number;
  service: string;
  graph: string;
  node: string;
  type: string;
  message: string;
  phase: string;
  attempts: number;
  outcome: string;
  run: string;
  /** Of the application's trace; empty without one. */
  trace_id: string;
  client: string;
  traceback: string;
  seconds: number;
}

export interface Distribution {
  count: number;
  avg: number | null;
  p50: number | null;
  p95: number | null;
}

export interface Calls {
  calls: number;
  errors: number;
  rate_limited: number;
  input_tokens: number;
  output_tokens: number;
  cached_tokens: number;
  cost_usd: number;
  wasted_cost_usd: number;
  unpriced_calls: number;
  calls_without_usage: number;
  seconds: Distribution;
  first_token_seconds: Distribution;
}

/** GET /api/v1/llm */
export interface ModelCalls {
  totals: Calls & { per_run: { cost_usd: Distribution; tokens: Distribution } };
  models: (Calls & { model: string })[];
  nodes: (Calls & { service: string; graph: string; node: string })[];
}
