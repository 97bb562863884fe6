// How parts of the graph stand out: shapes of a status, and what dims or marks a part.
import { SHAPES } from "../ui/badge";
import type { Differences } from "./compare";
import type { HealthStatus } from "./health";
import type { Scene } from "./scene";

/** How the parts of the graph stand out. */
export interface Marks {
  /** null: nothing is searched for. */
  matches: ReadonlySet<string> | null;
  hidden: ReadonlySet<string>;
  /** When and how often a run visited the nodes; null: no run is shown. */
  steps: ReadonlyMap<string, string> | null;
  /** Edges that the run took. */
  taken: ReadonlySet<string>;
  /** Nodes of the run that are not in the drawing. */
  missing: readonly string[];
  differences: ReadonlyMap<string, Differences>;
}

/** The edges whose count has grown in the last update, and its number. */
export interface Moved {
  keys: ReadonlySet<string>;
  update: number;
}

/** Whether a part is in the background. */
export const isDimmed = (marks: Marks, key: string) =>
  (!!marks.matches?.size && !marks.matches.has(key)) ||
  (marks.steps !== null && !marks.steps.has(key) && !marks.taken.has(key));

// The other pages have no word for "nothing to compare with".
const STATUS_SHAPES: Record<HealthStatus, string> = {
  good: SHAPES.good,
  warning: SHAPES.warning,
  bad: SHAPES.bad,
  idle: SHAPES.quiet,
  unknown: "M8 3a5 5 0 1 0 0 10A5 5 0 0 0 8 3z",
};

/** The shape of a status, around the origin: colours alone do not reach everybody. */
export function StatusShape({ status }: { status: HealthStatus }) {
  return (
    <path
      class={`shape ${status}`}
      transform="translate(-6 -6) scale(0.75)"
      d={STATUS_SHAPES[status]}
    />
  );
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
