// How parts of the graph stand out: shapes of a status, and what dims or marks a part.
import type { Differences } from "./compare";
import type { HealthStatus } from "./health";
import type { Scene } from "./scene";

/** How the parts of the graph stand out. */
export interface Marks {
  /** null: nothing is searched for. */
  matches: ReadonlySet<string> | null;
  hidden: ReadonlySet<string>;
  /** The order in which a run visited the nodes; null: no run is shown. */
  steps: ReadonlyMap<string, number[]> | null;
  /** Edges that the run took. */
  taken: ReadonlySet<string>;
  /** Nodes of the run that are not in the drawing. */
  missing: readonly string[];
  differences: ReadonlyMap<string, Differences>;
}

/** Whether a part is in the background. */
export const isDimmed = (marks: Marks, key: string) =>
  (marks.matches !== null && !marks.matches.has(key)) ||
  (marks.steps !== null && !marks.steps.has(key) && !marks.taken.has(key));

const SHAPES: Record<HealthStatus, string> = {
  good: "M0 -5A5 5 0 1 1 0 5A5 5 0 1 1 0 -5Z",
  warning: "M0 -6L6 5L-6 5Z",
  bad: "M-4.5 -4.5L4.5 -4.5L4.5 4.5L-4.5 4.5Z",
  idle: "M0 -4A4 4 0 1 1 0 4A4 4 0 1 1 0 -4Z",
  unknown: "M0 -6L6 0L0 6L-6 0Z",
};

/** The shape of a status: colours alone do not reach everybody. */
export function StatusShape({ status }: { status: HealthStatus }) {
  return <path class={`shape ${status}`} d={SHAPES[status]} />;
}

/** Returns a scene without its hidden nodes and edges. */
export function withoutHidden(scene: Scene, { hidden }: Marks): Scene {
  return {
    ...scene,
    nodes: scene.nodes.filter(({ key }) => !hidden.has(key)),
    edges: scene.edges.filter(
      ({ key, source, target }) =>
        ![key, source.key, target.key].some((each) => hidden.has(each)),
    ),
  };
}
