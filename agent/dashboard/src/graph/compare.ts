// What differs from an earlier period.
import type { Topology } from "../api/types";
import type { GraphEdge, GraphModel, GraphNode } from "./model";

export const COMPARISONS = {
  yesterday: "yesterday",
  week: "last week",
  change: "before the last change",
} as const;
export type Comparison = keyof typeof COMPARISONS;

const DAY = 86_400;

/** Returns the end of the earlier period; null if there is none to compare with. */
export function comparisonEnd(
  comparison: Comparison,
  end: number,
  changed: number | null,
): number | null {
  if (comparison === "yesterday") return end - DAY;
  if (comparison === "week") return end - 7 * DAY;
  // The change itself may lie within the last step of the earlier period.
  return changed === null ? null : changed - 1;
}

export interface NodeDifference {
  /** It is not in the earlier topology. */
  is_new: boolean;
  is_removed: boolean;
  /** Today's figure minus the earlier one; null without both. */
  p95: number | null;
  /** Today's p95 divided by the earlier one. */
  p95_ratio: number | null;
  error_rate: number | null;
  executions: number;
  cost_usd: number | null;
}

export interface EdgeDifference {
  is_new: boolean;
  is_removed: boolean;
  share: number | null;
  count: number;
}

export interface Differences {
  node(node: GraphNode): NodeDifference;
  edge(edge: GraphEdge): EdgeDifference;
}

/** Returns the differences of a graph from an earlier topology of it. */
export function differencesFrom(earlier: GraphModel): Differences {
  const nodes = new Map(earlier.nodes.map((node) => [node.node, node]));
  const edges = new Map(earlier.edges.map((edge) => [key(edge), edge]));
  for (const { repeats } of earlier.nodes)
    if (repeats) edges.set(key(repeats), repeats);
  return {
    node: (node) => compareNodes(node, nodes.get(node.node)),
    edge: (edge) => compareEdges(edge, edges.get(key(edge))),
  };
}

const key = (edge: GraphEdge) => JSON.stringify([edge.source, edge.target]);

function compareNodes(now: GraphNode, before: GraphNode | undefined): NodeDifference {
  return {
    is_new: !before,
    is_removed: now.is_removed,
    p95: difference(now.p95, before?.p95),
    p95_ratio: before?.p95 && now.p95 !== null ? now.p95 / before.p95 : null,
    error_rate: difference(errorRate(now), errorRate(before)),
    executions: now.executions - (before?.executions ?? 0),
    cost_usd: difference(now.cost_usd, before?.cost_usd),
  };
}

function compareEdges(now: GraphEdge, before: GraphEdge | undefined): EdgeDifference {
  return {
    is_new: !before,
    is_removed: now.is_removed,
    share: difference(now.share, before?.share),
    count: now.count - (before?.count ?? 0),
  };
}

function errorRate(node: GraphNode | undefined): number | null {
  return node?.success_rate == null ? null : 1 - node.success_rate;
}

function difference(
  now: number | null,
  before: number | null | undefined,
): number | null {
  return now === null || before === null || before === undefined ? null : now - before;
}

/** Says whether an earlier topology has figures to compare with. */
export function hasFigures(topology: Topology): boolean {
  return topology.nodes.some((node) => node.executions > 0);
}
