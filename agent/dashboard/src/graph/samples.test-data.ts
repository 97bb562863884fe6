// Rows for the unit tests of the graph.
import type {
  AlertRow,
  NodeRow,
  Topology,
  TopologyEdge,
  TopologyNode,
} from "../api/types";

export function node(name: string, change: Partial<TopologyNode> = {}): TopologyNode {
  return {
    node: name,
    executions: 100,
    outcomes: { ok: 100, error: 0, suppressed: 0, fallback: 0, cancelled: 0 },
    success_rate: 1,
    avg: 0.1,
    p50: 0.1,
    p95: 0.2,
    p99: 0.3,
    seconds: 10,
    retries: 0,
    last_execution: 1_000_000,
    cost_usd: null,
    wasted_cost_usd: null,
    tokens: null,
    in_flight: 0,
    never_reached: false,
    is_wired: true,
    dead_ends: 0,
    max_visits: null,
    usual_p95: null,
    usual_error_rate: null,
    max_avg: null,
    min_success_rate: null,
    subgraph: null,
    ...change,
  };
}

export function edge(
  source: string,
  target: string | null,
  action: string,
  count: number,
  change: Partial<TopologyEdge> = {},
): TopologyEdge {
  const rest = { share: null, is_back_edge: false, per_run: null };
  return { source, target, action, count, ...rest, ...change };
}

export function topology(
  nodes: TopologyNode[],
  edges: TopologyEdge[],
  change: Partial<Topology> = {},
): Topology {
  return {
    service: "shop-service",
    graph: "shop",
    start: "Load",
    hash: "1",
    period_start: 999_700,
    period_end: 1_000_000,
    runs: 100,
    in_progress: 0,
    nodes,
    edges,
    changed: null,
    ...change,
  };
}

export function liveRow(name: string, change: Partial<NodeRow> = {}): NodeRow {
  return { ...node(name), service: "shop-service", graph: "shop", ...change };
}

export function alertRow(rule: string, labels: Record<string, string>): AlertRow {
  return {
    id: "1",
    rule,
    severity: "warning",
    state: "firing",
    labels,
    summary: rule,
    since: 1_000_000,
    value: null,
    threshold: null,
    same_cause: "",
  };
}
