// The types of a layout, and what is checked before one is computed.

export type Direction = "right" | "down";
export type Point = [x: number, y: number];

/**
 * What the positions depend on, and nothing else: sizes, edges, and their order. Nodes
 * are numbers here, so that no name can interfere with the layout's own tables.
 */
export interface Wiring {
  direction: Direction;
  nodes: readonly [width: number, height: number][];
  /** Source, target, and the size of the label. No edge from a node to itself. */
  edges: readonly [source: number, target: number, width: number, height: number][];
}

/** Centres of nodes, and edges as lines with the centre of their label. */
export interface Layout {
  method: "dagre" | "layers";
  width: number;
  height: number;
  nodes: Point[];
  edges: { points: Point[]; label: Point }[];
}

// Distances in the drawing, in its own units.
export const NODE_GAP = 28;
export const RANK_GAP = 36;
export const EDGE_GAP = 16;
export const MARGIN = 16;

// Measured with dagre 3: 500 nodes with 674 edges take up to 0.8 s, 1,000 with 1,400 take
// 26 s. 60 nodes with 300 edges can overflow its stack, as can a depth above 300.
const MAX_NODES = 600;
const MAX_EDGES = 900;
const MAX_DEPTH = 250;
const MAX_EDGES_PER_NODE = 4;
const SMALL = 40;

/** Returns why dagre must not be given this graph, or null. */
export function tooLarge(wiring: Wiring): string | null {
  const nodes = wiring.nodes.length;
  const edges = wiring.edges.length;
  if (nodes > MAX_NODES) return `${nodes} nodes`;
  if (edges > MAX_EDGES) return `${edges} edges`;
  if (edges > SMALL && edges > nodes * MAX_EDGES_PER_NODE) {
    return `${edges} edges between ${nodes} nodes`;
  }
  const depth = Math.max(0, ...ranks(wiring)) + 1;
  return depth > MAX_DEPTH ? `a depth of ${depth} nodes` : null;
}

/** Returns the rank of each node: the longest way to it, without the back edges. */
export function ranks(wiring: Wiring): number[] {
  const { order, isBack } = traverse(wiring);
  const outgoing = edgesBySource(wiring);
  const result = wiring.nodes.map(() => 0);
  for (const node of order) {
    for (const edge of outgoing[node] ?? []) {
      if (isBack[edge]) continue;
      const target = wiring.edges[edge]![1];
      result[target] = Math.max(result[target]!, result[node]! + 1);
    }
  }
  return result;
}

/** Returns the numbers of the edges that leave each node. */
function edgesBySource(wiring: Wiring): number[][] {
  const result: number[][] = wiring.nodes.map(() => []);
  wiring.edges.forEach(([source], edge) => result[source]!.push(edge));
  return result;
}

/**
 * Returns a topological order, and the edges that close a cycle, by a search in depth.
 * Without recursion: a chain of 10,000 nodes must not overflow the stack.
 */
export function traverse(wiring: Wiring): { order: number[]; isBack: boolean[] } {
  const outgoing = edgesBySource(wiring);
  const state = new Uint8Array(wiring.nodes.length); // 0 new, 1 on the path, 2 finished
  const isBack = wiring.edges.map(() => false);
  const order: number[] = [];
  for (let root = 0; root < wiring.nodes.length; root++) {
    if (state[root]) continue;
    const path: [node: number, next: number][] = [[root, 0]];
    state[root] = 1;
    while (path.length) {
      const top = path[path.length - 1]!;
      const edge = outgoing[top[0]]![top[1]++];
      if (edge === undefined) {
        state[top[0]] = 2;
        order.push(top[0]);
        path.pop();
        continue;
      }
      const target = wiring.edges[edge]![1];
      if (state[target] === 1) isBack[edge] = true;
      else if (!state[target]) {
        state[target] = 1;
        path.push([target, 0]);
      }
    }
  }
  return { order: order.reverse(), isBack };
}
