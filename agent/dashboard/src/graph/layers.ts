// Draws a graph in layers, without dagre: for graphs that are too large for it, and until
// its result arrives.
//
// Strategy: the layer of a node is the longest way to it. Within a layer, nodes are sorted
// a few times by the mean position of their neighbours, which removes most crossings. It
// takes milliseconds for thousands of nodes, and its edges may run behind other nodes.
import {
  MARGIN,
  NODE_GAP,
  RANK_GAP,
  ranks,
  type Layout,
  type Point,
  type Wiring,
} from "./layout";

const SWEEPS = 4;

/** Returns the positions of all nodes; no two of them overlap. */
export function layoutInLayers(wiring: Wiring): Layout {
  const layers = groupByRank(ranks(wiring));
  const neighbours = wiring.nodes.map(() => ({
    before: [] as number[],
    after: [] as number[],
  }));
  for (const [source, target] of wiring.edges) {
    neighbours[source]!.after.push(target);
    neighbours[target]!.before.push(source);
  }
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    const side = sweep % 2 ? "after" : "before";
    const at = positionsWithin(layers, wiring.nodes.length);
    for (const layer of layers) {
      const mean = new Map(
        layer.map((node) => {
          const others = neighbours[node]![side];
          const sum = others.reduce((total, other) => total + at[other]!, 0);
          return [node, others.length ? sum / others.length : at[node]!];
        }),
      );
      layer.sort((a, b) => mean.get(a)! - mean.get(b)! || a - b);
    }
  }
  return assignPositions(wiring, layers);
}

function groupByRank(rank: number[]): number[][] {
  const layers: number[][] = [];
  rank.forEach((layer, node) => (layers[layer] ??= []).push(node));
  return layers;
}

/** Returns each node's position within its layer, from 0 to 1. */
function positionsWithin(layers: number[][], count: number): number[] {
  const result = new Array<number>(count).fill(0);
  for (const layer of layers) {
    layer.forEach((node, index) => (result[node] = (index + 0.5) / layer.length));
  }
  return result;
}

function assignPositions(wiring: Wiring, layers: number[][]): Layout {
  const isDown = wiring.direction === "down";
  // Along the ranks, and across them.
  const along = (node: number) => wiring.nodes[node]![isDown ? 1 : 0];
  const across = (node: number) => wiring.nodes[node]![isDown ? 0 : 1];
  const breadth = layers.map((layer) =>
    layer.reduce((sum, node) => sum + across(node) + NODE_GAP, -NODE_GAP),
  );
  const widest = Math.max(0, ...breadth);
  const labels = wiring.edges.reduce(
    (max, edge) => Math.max(max, edge[isDown ? 3 : 2]),
    0,
  );
  const nodes: Point[] = [];
  let start = MARGIN;
  layers.forEach((layer, index) => {
    const depth = layer.reduce((max, node) => Math.max(max, along(node)), 0);
    let at = MARGIN + (widest - breadth[index]!) / 2;
    for (const node of layer) {
      const centre: Point = [start + depth / 2, at + across(node) / 2];
      nodes[node] = isDown ? [centre[1], centre[0]] : centre;
      at += across(node) + NODE_GAP;
    }
    start += depth + RANK_GAP + labels;
  });
  const length = Math.max(0, start - RANK_GAP - labels) + MARGIN;
  const size: Point = [length, widest + 2 * MARGIN];
  if (isDown) size.reverse();
  const edges = wiring.edges.map(([source, target]) => {
    const points = [nodes[source]!, nodes[target]!];
    const label: Point = [
      (points[0]![0] + points[1]![0]) / 2,
      (points[0]![1] + points[1]![1]) / 2,
    ];
    return { points, label };
  });
  return { method: "layers", width: size[0], height: size[1], nodes, edges };
}
