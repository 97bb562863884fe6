// The graph to draw: what the agent says of a topology, arranged by node and edge.
import type { Live, NodeRow, Topology, TopologyEdge, TopologyNode } from "../api/types";
import { assess, type FiringAlert, type Health } from "./health";

/** One action that a node returned, with or without an edge for it. */
export interface ActionFigures {
  action: string;
  count: number;
  share: number | null;
}

export interface GraphNode extends TopologyNode {
  health: Health;
  /** Its share of the time of all nodes of the graph. */
  time_share: number;
  /** Actions at which runs ended here. */
  ends: ActionFigures[];
  /** It leads back to itself. */
  repeats: GraphEdge | null;
  is_start: boolean;
  /** It is gone today: it is shown because the earlier period has it. */
  is_removed: boolean;
}

/** All edges from one node to another, as one line. */
export interface GraphEdge {
  source: string;
  target: string;
  actions: ActionFigures[];
  count: number;
  share: number | null;
  is_back_edge: boolean;
  per_run: number | null;
  is_removed: boolean;
  /** The only edge of its source, by the default action. */
  is_plain: boolean;
}

export interface GraphModel {
  service: string;
  graph: string;
  runs: number;
  in_progress: number;
  changed: number | null;
  /** In the order of the layout: by distance from the start, then by name. */
  nodes: GraphNode[];
  /** Between two nodes; see `GraphNode.repeats` for the others. */
  edges: GraphEdge[];
}

/** Returns the graph of a topology; `earlier` adds what is gone since then. */
export function buildModel(
  topology: Topology,
  alerts: Live["alerts"] = [],
  earlier: Topology | null = null,
): GraphModel {
  const removed = earlier ? removedParts(topology, earlier) : { nodes: [], edges: [] };
  const rows = [...topology.nodes, ...removed.nodes];
  const names = new Set(rows.map((row) => row.node));
  const { wired, ends } = groupEdges(topology.edges, names, false);
  const gone = groupEdges(removed.edges, names, true).wired;
  const edges = [...wired, ...gone.filter((edge) => !wired.some(sameEnds(edge)))];
  markPlain(edges);
  const seconds = topology.nodes.reduce((sum, node) => sum + node.seconds, 0);
  const isRemoved = new Set(removed.nodes.map((row) => row.node));
  const nodes = sortNodes(rows, edges, topology.start).map((row) => ({
    ...row,
    health: assess(row, alertsOf(alerts, topology, row.node)),
    time_share: seconds > 0 ? row.seconds / seconds : 0,
    ends: ends.get(row.node) ?? [],
    repeats:
      edges.find(({ source, target }) => source === row.node && target === row.node) ??
      null,
    is_start: row.node === topology.start,
    is_removed: isRemoved.has(row.node),
  }));
  return {
    service: topology.service,
    graph: topology.graph,
    runs: topology.runs,
    in_progress: topology.in_progress,
    changed: topology.changed,
    nodes,
    edges: sortEdges(
      edges.filter(({ source, target }) => source !== target),
      nodes,
    ),
  };
}

const sameEnds = (edge: GraphEdge) => (other: GraphEdge) =>
  other.source === edge.source && other.target === edge.target;

function removedParts(now: Topology, earlier: Topology) {
  const nodes = new Set(now.nodes.map((row) => row.node));
  const edges = new Set(now.edges.map(edgeKey));
  return {
    nodes: earlier.nodes.filter((row) => !nodes.has(row.node)).map(withoutFigures),
    edges: earlier.edges
      .filter((edge) => edge.target !== null && !edges.has(edgeKey(edge)))
      .map((edge) => ({ ...edge, count: 0, share: null, per_run: null })),
  };
}

const edgeKey = (edge: TopologyEdge) =>
  JSON.stringify([edge.source, edge.target, edge.action]);

/** Returns a node as one without executions: those of the earlier period are not today's. */
function withoutFigures(row: TopologyNode): TopologyNode {
  return {
    ...row,
    executions: 0,
    outcomes: { ok: 0, error: 0, suppressed: 0, fallback: 0, cancelled: 0 },
    success_rate: null,
    avg: null,
    p50: null,
    p95: null,
    p99: null,
    seconds: 0,
    retries: 0,
    cost_usd: null,
    wasted_cost_usd: null,
    tokens: null,
    in_flight: 0,
    dead_ends: 0,
    never_reached: false,
  };
}

function groupEdges(
  rows: readonly TopologyEdge[],
  nodes: ReadonlySet<string>,
  isRemoved: boolean,
): { wired: GraphEdge[]; ends: Map<string, ActionFigures[]> } {
  const wired = new Map<string, GraphEdge>();
  const ends = new Map<string, ActionFigures[]>();
  for (const row of rows) {
    const { source, target, action, count, share } = row;
    if (!nodes.has(source)) continue;
    if (target === null || !nodes.has(target)) {
      const actions = ends.get(source) ?? [];
      actions.push({ action, count, share });
      ends.set(source, actions);
      continue;
    }
    const key = JSON.stringify([source, target]);
    const edge = wired.get(key) ?? emptyEdge(source, target, isRemoved);
    edge.actions.push({ action, count, share });
    edge.count += count;
    if (share !== null) edge.share = Math.min(1, (edge.share ?? 0) + share);
    edge.is_back_edge ||= row.is_back_edge;
    if (row.per_run !== null) edge.per_run = (edge.per_run ?? 0) + row.per_run;
    wired.set(key, edge);
  }
  for (const edge of wired.values()) {
    edge.actions.sort((a, b) => compareText(a.action, b.action));
  }
  return { wired: [...wired.values()], ends };
}

function emptyEdge(source: string, target: string, isRemoved: boolean): GraphEdge {
  return {
    source,
    target,
    actions: [],
    count: 0,
    share: null,
    is_back_edge: source === target,
    per_run: null,
    is_removed: isRemoved,
    is_plain: false,
  };
}

function alertsOf(
  alerts: Live["alerts"],
  topology: Topology,
  node: string,
): FiringAlert[] {
  return alerts.filter(
    ({ state, labels }) =>
      state === "firing" &&
      labels.node === node &&
      (labels.graph ?? topology.graph) === topology.graph &&
      (labels.service ?? topology.service) === topology.service,
  );
}

// By code units: the order, and so the layout, must not depend on the reader's language.
const compareText = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0);

/** Sorts nodes by their distance from the start, then by name. */
function sortNodes(
  rows: readonly TopologyNode[],
  edges: readonly GraphEdge[],
  start: string,
): TopologyNode[] {
  const targets = new Map<string, string[]>();
  for (const { source, target } of edges) {
    targets.set(source, [...(targets.get(source) ?? []), target]);
  }
  const distance = new Map<string, number>([[start, 0]]);
  for (const [node, steps] of distance) {
    for (const target of targets.get(node) ?? []) {
      if (!distance.has(target)) distance.set(target, steps + 1);
    }
  }
  const of = (row: TopologyNode) => distance.get(row.node) ?? rows.length;
  return [...rows].sort((a, b) => of(a) - of(b) || compareText(a.node, b.node));
}

const DEFAULT_ACTION = "default";

function markPlain(edges: readonly GraphEdge[]): void {
  const counts = new Map<string, number>();
  for (const { source } of edges) counts.set(source, (counts.get(source) ?? 0) + 1);
  for (const edge of edges) {
    edge.is_plain =
      counts.get(edge.source) === 1 &&
      edge.actions.every(({ action }) => action === DEFAULT_ACTION);
  }
}

function sortEdges(edges: GraphEdge[], nodes: readonly GraphNode[]): GraphEdge[] {
  const index = new Map(nodes.map(({ node }, position) => [node, position]));
  const of = (name: string) => index.get(name)!;
  return edges.sort(
    (a, b) => of(a.source) - of(b.source) || of(a.target) - of(b.target),
  );
}

/** Returns a topology with the figures of the event stream, where they are of its period. */
export function withLiveFigures(
  topology: Topology,
  live: Pick<Live, "nodes" | "graphs">,
  isSamePeriod: boolean,
): Topology {
  const isOwn = (row: { service: string; graph: string }) =>
    row.graph === topology.graph &&
    (!topology.service || row.service === topology.service);
  const rows = new Map<string, NodeRow>();
  for (const row of live.nodes) if (isOwn(row)) rows.set(row.node, row);
  const graph = live.graphs.find(isOwn);
  return {
    ...topology,
    in_progress: graph?.in_progress ?? topology.in_progress,
    nodes: topology.nodes.map((node) => {
      const row = rows.get(node.node);
      if (!row) return node;
      if (!isSamePeriod) return { ...node, in_flight: row.in_flight };
      return { ...node, ...row, never_reached: node.never_reached && !row.executions };
    }),
  };
}
