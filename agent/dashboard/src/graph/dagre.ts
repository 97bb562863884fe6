// The layout by dagre, in the form of `Layout`.
import { Graph, layout } from "@dagrejs/dagre";
import {
  EDGE_GAP,
  MARGIN,
  NODE_GAP,
  RANK_GAP,
  type Layout,
  type Wiring,
} from "./layout";

/** Returns the layout; may take seconds, and may overflow the stack (see `tooLarge`). */
export function layoutWithDagre(wiring: Wiring): Layout {
  const graph = new Graph({ multigraph: true });
  graph.setGraph({
    rankdir: wiring.direction === "down" ? "TB" : "LR",
    nodesep: NODE_GAP,
    ranksep: RANK_GAP,
    edgesep: EDGE_GAP,
    marginx: MARGIN,
    marginy: MARGIN,
  });
  wiring.nodes.forEach(([width, height], node) => {
    graph.setNode(String(node), { width, height });
  });
  wiring.edges.forEach(([source, target, width, height], edge) => {
    const label = { width, height, labelpos: "c" as const };
    graph.setEdge(String(source), String(target), label, String(edge));
  });
  layout(graph);
  const size = graph.graph();
  return {
    method: "dagre",
    width: size.width ?? 0,
    height: size.height ?? 0,
    nodes: wiring.nodes.map((_, node) => {
      const { x, y } = graph.node(String(node)) as { x: number; y: number };
      return [x, y];
    }),
    edges: wiring.edges.map(([source, target], edge) => {
      const { points, x, y } = graph.edge(
        String(source),
        String(target),
        String(edge),
      ) as { points: { x: number; y: number }[]; x: number; y: number };
      return { points: points.map((point) => [point.x, point.y]), label: [x, y] };
    }),
  };
}
