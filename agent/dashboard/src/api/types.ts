// The data of the page as the views use it. Times are Unix seconds, durations are seconds,
// rates are shares from 0 to 1, and null means that there is no value.

export type Outcome = "ok" | "error" | "suppressed" | "fallback" | "cancelled";
export type Outcomes = Record<Outcome, number>;

/** One period: `end` null means now. */
export interface Period {
  window: string;
  end: number | null;
}

/** What a node or a graph did within a period. */
export interface Figures {
  executions: number;
  outcomes: Outcomes;
  success_rate: number | null;
  avg: number | null;
  p50: number | null;
  p95: number | null;
  p99: number | null;
  /** Sum over all executions. */
  seconds: number;
  retries: number;
  last_execution: number | null;
  cost_usd: number | null;
  wasted_cost_usd: number | null;
  tokens: number | null;
}

export interface GraphRow extends Figures {
  service: string;
  graph: string;
  visits: number;
  dead_ends: number;
  never_reached: number;
  in_progress: number;
}

export interface NodeRow extends Figures {
  service: string;
  graph: string;
  node: string;
  in_flight: number;
}

/** A run in progress. It is in trouble if `trouble` is not empty. */
export interface RunInProgress {
  service: string;
  graph: string;
  run: string;
  client: string;
  pid: number;
  host: string;
  start: number;
  /** Where it is, since when, and the nodes visited so far. */
  node: string;
  node_start: number;
  visits: number;
  trouble: Trouble[];
  /** Of its calls of models up to now; null if none has a known price. */
  cost_usd: number | null;
  tokens: number;
  /** Of the calls without a price. */
  unpriced_tokens: number;
}
export type Trouble = "retrying" | "looping" | "stuck";

export interface EndedRun {
  service: string;
  graph: string;
  run: string;
  time: number;
  seconds: number;
  outcome: Outcome;
  reason: string;
  node: string;
  action: string;
  visits: number;
  /** The nodes it visited, in the order of first visits; the failed one is last. */
  path: string[];
  /** How often it visited each of `path`; empty if once, or if that is not known. */
  path_visits: number[];
}

export interface AlertRow {
  id: string;
  rule: string;
  severity: string;
  state: string;
  labels: Record<string, string>;
  summary: string;
  since: number;
  value: number | null;
  threshold: number | null;
  /** The id of the firing alert that reports its cause; empty for none. */
  same_cause: string;
}

export interface StageHealth {
  name: string;
  status: "healthy" | "degraded" | "unhealthy";
  detail: string;
}

/**
 * GET /api/v1/runs?service=&graph=&run=&window=&end=
 *
 * `in_progress` are the runs of now, whatever the period; the rest is about runs that ended
 * in it. `run` selects one run by its id.
 */
export interface Runs {
  time: number;
  in_progress: RunInProgress[];
  /** Failed ones, the latest first, as far as they are kept. */
  ended: EndedRun[];
  /** How all runs of the period ended, the most frequent first. */
  ends: RunEnd[];
  /** How many nodes the runs of each graph visited. */
  visits: RunVisits[];
}

/** How many nodes runs visited; `most` is that of one run within the last hour. */
export interface RunVisits {
  service: string;
  graph: string;
  runs: number;
  average: number;
  most: number | null;
}

/** The number of runs that ended at a node, with an action, for a reason. */
export interface RunEnd {
  service: string;
  graph: string;
  reason: string;
  node: string;
  action: string;
  count: number;
}

/** What the event stream keeps up to date. */
export interface Live {
  time: number;
  /** When counting began. */
  since: number;
  version: string;
  window: string;
  health: { status: string; stages: StageHealth[] };
  completeness: {
    ratio: number | null;
    dropped: number;
    deaths: number;
    unknown_seconds: number;
  };
  agent: { cpu_percent: number | null; memory_bytes: number; store_bytes: number };
  processes: Record<string, number>;
  graphs: GraphRow[];
  nodes: NodeRow[];
  /** In trouble first, then the longest; at most 20, whatever `runs_in_progress`. */
  runs: RunInProgress[];
  runs_in_progress: number;
  /** The most urgent first; at most 100, whatever `alerts_active`. */
  alerts: AlertRow[];
  alerts_active: number;
}

/** GET /api/v1/topology?graph=&service=&window=&end= */
export interface Topology {
  service: string;
  graph: string;
  start: string;
  /** Changes with the topology and with nothing else. */
  hash: string;
  runs: number;
  in_progress: number;
  /** Which buckets the window covers. */
  period_start: number;
  period_end: number;
  nodes: TopologyNode[];
  edges: TopologyEdge[];
  /** When the topology last changed, if that is known. */
  changed: number | null;
}
export interface TopologyNode extends Figures {
  node: string;
  in_flight: number;
  /** Not executed since first seen, although the graph has run. */
  never_reached: boolean;
  is_wired: boolean;
  /** Runs that ended here at an action without an edge. */
  dead_ends: number;
  /** The most visits of one run within the last hour; null if none came back. */
  max_visits: number | null;
  /** Its own usual p95 and error rate, from stored history; null without enough of it. */
  usual_p95: number | null;
  usual_error_rate: number | null;
  /** Thresholds of rules that apply to it. */
  max_avg: number | null;
  min_success_rate: number | null;
  /** The graph that runs inside this node, if it is one. */
  subgraph: string | null;
}
export interface TopologyEdge {
  source: string;
  /** null: runs end here. */
  target: string | null;
  action: string;
  count: number;
  /** Of all actions that the source returned. */
  share: number | null;
  /** It leads back to an earlier node. */
  is_back_edge: boolean;
  /** How often a run takes it, on average over all runs. */
  per_run: number | null;
}

/** GET /api/v1/query?metric=&graph=&node=&service=&model=&start=&end=&step=&by= */
export interface QueryResult {
  unit: string;
  step: number;
  start: number;
  end: number;
  /** One without `by`. Each point is [start of its step, value, number of events]. */
  series: { name: string; points: [number, number | null, number][] }[];
  /** The number of values of `by` without a series: at most 50 are returned. */
  left_out: number;
}

/** GET /api/v1/heatmap?graph=&node=&service=&start=&end=&step= */
export interface Heatmap {
  step: number;
  start: number;
  end: number;
  /** When the first column begins, and the number of columns. */
  first: number;
  columns: number;
  /** Upper bounds of the rows in seconds, ascending. */
  bounds: number[];
  /** Only cells with executions: [column, row, executions]. */
  cells: [number, number, number][];
}

/** GET /api/v1/changes?since=1h: what is different from before. */
export interface Change {
  time: number;
  kind:
    | "alert"
    | "process_started"
    | "process_ended"
    | "process_died"
    | "version"
    | "topology"
    | "new_graph"
    | "new_node"
    | "new_error";
  service: string;
  graph: string;
  node: string;
  text: string;
  /** Of an alert; empty for others. */
  severity: string;
}

/** GET /api/v1/problems?window=&service=: what is wrong now, the most urgent first. */
export interface Problem {
  kind:
    | "failing"
    | "low_traffic"
    | "slow"
    | "memory"
    | "process_died"
    | "silent"
    | "dead_end"
    | "never_reached"
    | "runaway"
    | "stuck"
    | "masked_failures"
    | "drift"
    | "wasted_spend"
    | "cost_per_run"
    | "alert";
  severity: string;
  service: string;
  graph: string;
  node: string;
  text: string;
  details: string[];
  since: number | null;
  count: number | null;
  cost_usd: number | null;
  run: string;
  /** Those that fire for the same place. */
  alerts: { id: string; rule: string; node: string }[];
}
