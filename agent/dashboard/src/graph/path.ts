// A run as a path on the graph.
import type { Scene } from "./scene";

export interface RunPath {
  /** Positions in the run, from 1, by key of the node. */
  steps: Map<string, number[]>;
  /** Keys of the edges that it took. */
  taken: Set<string>;
  /** Nodes of the run that are not in the drawing. */
  missing: string[];
}

/**
 * Returns where the nodes of a run are in a scene. Without every visit in `path`, the edges
 * that it took are not known.
 */
export function tracePath(
  scene: Scene,
  { path, visits }: { path: readonly string[]; visits: number },
): RunPath {
  const isComplete = visits === path.length;
  const keys = new Map(
    scene.nodes
      .filter((item) => item.path.length === 1)
      .map((item) => [item.node.node, item.key]),
  );
  const edges = new Map(
    scene.edges.map((edge) => [
      JSON.stringify([edge.source.key, edge.target.key]),
      edge.key,
    ]),
  );
  const steps = new Map<string, number[]>();
  const taken = new Set<string>();
  const missing = new Set<string>();
  path.forEach((name, index) => {
    const key = keys.get(name);
    if (key === undefined) {
      missing.add(name);
      return;
    }
    steps.set(key, [...(steps.get(key) ?? []), index + 1]);
    const before = index && isComplete ? keys.get(path[index - 1]!) : undefined;
    const edge = before && edges.get(JSON.stringify([before, key]));
    if (edge) taken.add(edge);
  });
  return { steps, taken, missing: [...missing] };
}
