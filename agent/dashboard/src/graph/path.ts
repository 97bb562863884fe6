// A run as a path on the graph.
import type { EndedRun } from "../api/types";
import type { Scene, SceneNode } from "./scene";

export interface RunPath {
  /** Positions in the run, from 1, and the number of visits, by key of the node. */
  steps: Map<string, string>;
  /** Keys of the edges that it took, as far as that is certain. */
  taken: Set<string>;
  /** Nodes of the run that are not in the drawing. */
  missing: string[];
}

type Run = Pick<EndedRun, "path" | "path_visits" | "visits" | "node">;

/**
 * Returns where the nodes of a run are in a scene. A run that came back to a node is only
 * known by its nodes, in the order of their first visits, and how often it visited each.
 */
export function tracePath(scene: Scene, run: Run): RunPath {
  const { path, path_visits, visits, node } = run;
  const keys = new Map(
    scene.nodes
      .filter((item) => item.path.length === 1)
      .map((item) => [item.node.node, item.key]),
  );
  const places = new Map<string, number[]>();
  const counts = new Map<string, number>();
  path.forEach((name, index) => {
    const key = keys.get(name);
    if (key === undefined) return;
    places.set(key, [...(places.get(key) ?? []), index + 1]);
    const count = path_visits[index];
    if (count !== undefined) counts.set(key, count);
  });
  const ends = [keys.get(path[0] ?? ""), keys.get(node)] as const;
  const isWhole = sum(path_visits) === visits;
  return {
    steps: new Map(
      [...places].map(([key, at]) => [key, stepsText(at, counts.get(key))]),
    ),
    taken:
      visits === path.length
        ? stepEdges(scene, path, keys)
        : isWhole
          ? certainEdges(scene, counts, ends)
          : new Set(),
    missing: [...new Set(path.filter((name) => !keys.has(name)))],
  };
}

const MAX_STEPS = 6;

function stepsText(steps: readonly number[], count: number | undefined): string {
  if (count !== undefined)
    return count > 1 ? `${steps[0]} … (${count}×)` : `${steps[0]}`;
  const first = steps.slice(0, MAX_STEPS).join(", ");
  return steps.length > MAX_STEPS ? `${first} … (${steps.length}×)` : first;
}

/** Returns the edges between consecutive nodes of a path. */
function stepEdges(
  scene: Scene,
  path: readonly string[],
  keys: ReadonlyMap<string, string>,
): Set<string> {
  const steps = new Set(
    path.slice(1).map((name, index) => pairKey(keys.get(path[index]!), keys.get(name))),
  );
  const taken = scene.edges.filter(({ source, target }) =>
    steps.has(pairKey(source.key, target.key)),
  );
  return new Set(taken.map(({ key }) => key));
}

const pairKey = (...keys: (string | undefined)[]) => JSON.stringify(keys);

/**
 * Returns the edges without which a run could not have visited these nodes: the only one
 * that leaves a node towards another of them, or that leads to it.
 */
function certainEdges(
  scene: Scene,
  counts: ReadonlyMap<string, number>,
  [start, end]: readonly [string | undefined, string | undefined],
): Set<string> {
  const possible = scene.edges.filter(
    ({ source, target }) => counts.has(source.key) && counts.has(target.key),
  );
  const from = countBy(possible.map(({ source }) => source.key));
  const to = countBy(possible.map(({ target }) => target.key));
  // An edge from a node to itself is not among them.
  const hasReturned = ({ key, node }: SceneNode) =>
    counts.get(key)! > 1 && node.repeats === null;
  const certain = possible.filter(
    ({ source, target }) =>
      (from.get(source.key) === 1 && (source.key !== end || hasReturned(source))) ||
      (to.get(target.key) === 1 && (target.key !== start || hasReturned(target))),
  );
  return new Set(certain.map(({ key }) => key));
}

function countBy(keys: readonly string[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const key of keys) counts.set(key, (counts.get(key) ?? 0) + 1);
  return counts;
}

const sum = (numbers: readonly number[]) =>
  numbers.reduce((all, each) => all + each, 0);
