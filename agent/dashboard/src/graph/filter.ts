// Which parts of a scene the find and hide texts select.
import { FindError, parseFind, type Predicate, type Subject } from "./find";
import type { GraphEdge, GraphNode } from "./model";
import { nodesInLoops, type Scene } from "./scene";

export interface Selection {
  /** null: there is no text, or it has an error. */
  keys: ReadonlySet<string> | null;
  nodes: number;
  edges: number;
  error: FindError | null;
}

/** Returns the keys of the nodes and edges that a text selects. */
export function selectParts(scene: Scene, text: string): Selection {
  let predicate: Predicate | null = null;
  try {
    predicate = parseFind(text);
  } catch (error) {
    if (!(error instanceof FindError)) throw error;
    return { keys: null, nodes: 0, edges: 0, error };
  }
  if (!predicate) return { keys: null, nodes: 0, edges: 0, error: null };
  const loops = nodesInLoops(scene);
  const nodes = scene.nodes
    .filter(({ key, node }) => predicate(nodeSubject(node, loops.has(key))) === true)
    .map(({ key }) => key);
  const edges = scene.edges
    .filter(({ edge }) => predicate(edgeSubject(edge)) === true)
    .map(({ key }) => key);
  return {
    keys: new Set([...nodes, ...edges]),
    nodes: nodes.length,
    edges: edges.length,
    error: null,
  };
}

/** Returns `keys` and the keys of everything inside them: hiding a frame hides all of it. */
export function withContents(scene: Scene, keys: ReadonlySet<string>): Set<string> {
  const paths = new Set(keys);
  const result = new Set(keys);
  for (const { key, path } of scene.nodes) {
    for (let length = 1; length < path.length; length++) {
      if (paths.has(JSON.stringify(path.slice(0, length)))) result.add(key);
    }
  }
  return result;
}

/** Returns what the find language knows of a node. */
function nodeSubject(node: GraphNode, isInLoop: boolean): Subject {
  const { success_rate, outcomes } = node;
  const hasRun = node.executions > 0;
  return {
    kind: "node",
    names: [node.node],
    figures: {
      error: success_rate === null ? null : 1 - success_rate,
      success: success_rate,
      avg: node.avg,
      p50: node.p50,
      p95: node.p95,
      p99: node.p99,
      time: hasRun ? node.time_share : null,
      executions: node.executions,
      retries: node.retries,
      fallbacks: outcomes.fallback,
      visits: node.max_visits,
      "in-flight": node.in_flight,
      "dead-ends": node.dead_ends,
      cost: node.cost_usd,
      wasted: node.wasted_cost_usd,
      tokens: node.tokens,
    },
    states: {
      never: node.never_reached,
      bad: node.health.status === "bad",
      warning: node.health.status === "warning",
      retried: node.retries > 0,
      fallback: outcomes.fallback > 0,
      running: node.in_flight > 0,
      "dead-end": node.dead_ends > 0,
      llm: node.tokens !== null || node.cost_usd !== null,
      nested: node.subgraph !== null,
      loop: isInLoop,
      start: node.is_start,
    },
  };
}

/** Returns what the find language knows of an edge. */
function edgeSubject(edge: GraphEdge): Subject {
  return {
    kind: "edge",
    names: edge.actions.map(({ action }) => action),
    figures: {
      traffic: edge.count,
      share: edge.share,
      repeats: edge.is_back_edge ? edge.per_run : null,
    },
    states: { loop: edge.is_back_edge },
  };
}
