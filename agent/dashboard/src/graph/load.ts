// Loads the topology of a graph, of the graphs inside its nodes, and of earlier periods.
import { ApiError, request } from "../api/client";
import type { Live, Period, Topology } from "../api/types";
import { withLiveFigures, buildModel } from "./model";
import { pathKey, type GraphTree } from "./scene";

/** A topology, and those inside its expanded nodes. */
export interface TopologyTree {
  topology: Topology;
  children: ReadonlyMap<string, TopologyTree>;
}

const MAX_NESTING = 5;

/** Requests a graph and what is expanded in it; `open` are keys of paths. */
export async function loadTree(
  service: string | null,
  graph: string,
  period: Period,
  open: ReadonlySet<string>,
  stop: AbortSignal,
): Promise<TopologyTree> {
  const load = (name: string) =>
    request<Topology>(
      "api/v1/topology",
      { graph: name, service, ...period },
      { signal: stop },
    );
  const expand = async (
    topology: Topology,
    path: string[],
    around: readonly string[],
  ): Promise<TopologyTree> => {
    const children = new Map<string, TopologyTree>();
    await Promise.all(
      topology.nodes.map(async ({ node, subgraph }) => {
        const inner = [...path, node];
        // A graph may contain itself.
        if (subgraph === null || around.includes(subgraph)) return;
        if (!open.has(pathKey(inner)) || path.length >= MAX_NESTING) return;
        const nested = await load(subgraph).catch(ignoreMissing);
        if (!nested) return;
        children.set(node, await expand(nested, inner, [...around, subgraph]));
      }),
    );
    return { topology, children };
  };
  return expand(await load(graph), [], [graph]);
}

// A graph that has not run in the period is drawn as a plain node.
function ignoreMissing(error: unknown): null {
  if (error instanceof ApiError && error.status === 404) return null;
  throw error;
}

/** Returns the graphs to draw, with the figures of the event stream where they apply. */
export function buildTree(
  tree: TopologyTree,
  live: Live | null,
  isSamePeriod: boolean,
  earlier: TopologyTree | null,
): GraphTree {
  const topology = live
    ? withLiveFigures(tree.topology, live, isSamePeriod)
    : tree.topology;
  const children = new Map<string, GraphTree>();
  for (const [node, child] of tree.children) {
    const before = earlier?.children.get(node) ?? null;
    children.set(node, buildTree(child, live, isSamePeriod, before));
  }
  const model = buildModel(topology, live?.alerts ?? [], earlier?.topology ?? null);
  return { model, children };
}
