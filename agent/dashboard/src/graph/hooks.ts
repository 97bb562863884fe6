// The state of the graph view: what it loads, draws and marks.
import { signal } from "@preact/signals";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { EndedRun } from "../api/types";
import { usePolled } from "../state/polled";
import type { Route } from "../state/route";
import { comparisonEnd, differencesFrom, type Differences } from "./compare";
import { LayoutCache, WorkerEngine } from "./compute";
import { withContents } from "./filter";
import type { Direction } from "./layout";
import { agentTime } from "../state/live";
import { loadTree, type TopologyTree } from "./load";
import type { Marks, Moved } from "./marks";
import { buildModel } from "./model";
import type { GraphOptions } from "./options";
import { tracePath } from "./path";
import { buildScene, type GraphTree, type Scene } from "./scene";

// Figures come with the event stream; edges and other periods are read again this often.
const REFRESH_SECONDS = 5;
// Narrower, the graph is drawn from above.
const NARROW = 640;
const REPLAY_WINDOWS = ["1m", "2m", "5m"];

const layoutVersion = signal(0);
const layouts = new LayoutCache(
  new WorkerEngine(
    () => new Worker(new URL("assets/layout.js", document.baseURI), { type: "module" }),
  ),
  () => layoutVersion.value++,
  storage(),
);

function storage(): Storage | null {
  try {
    return sessionStorage;
  } catch {
    return null; // Forbidden by the browser's settings.
  }
}

/** Loads the graph in the period, and in the earlier one to compare with. */
export function useTopology(graph: string, current: Route, options: GraphOptions) {
  const { service } = current;
  const period =
    options.replay === null
      ? { window: current.window, end: current.end }
      : {
          window: REPLAY_WINDOWS.includes(current.window) ? current.window : "1m",
          end: options.replay,
        };
  const key = JSON.stringify([service, graph, period, [...options.open]]);
  const loaded = usePolled(
    key,
    (stop) => loadTree(service, graph, period, options.open, stop),
    period.end === null ? REFRESH_SECONDS : null,
  );
  // The first key names the graph: another graph's drawing must not stay.
  const tree =
    loaded.value?.topology.graph === graph ? (loaded.value as TopologyTree) : null;
  const changed = tree?.topology.changed ?? null;
  const end =
    options.compare && tree
      ? comparisonEnd(options.compare, minuteOf(period.end ?? agentTime.value), changed)
      : null;
  const earlierKey = end === null ? null : JSON.stringify([key, end]);
  const earlier = usePolled(
    earlierKey,
    (stop) =>
      loadTree(service, graph, { window: period.window, end }, options.open, stop),
    null,
  );
  return {
    tree,
    earlier: earlier.key !== null && options.compare ? earlier.value : null,
    error: loaded.error ?? earlier.error,
    period,
    isLoading: loaded.key !== key,
  };
}

// So that a live page asks for the earlier period once a minute only.
const minuteOf = (time: number) => Math.floor(time / 60) * 60;

/** Returns the last complete scene: it stays until the layout of the next one is known. */
export function useScene(tree: GraphTree | null, direction: Direction): Scene | null {
  const last = useRef<{ graph: string; scene: Scene } | null>(null);
  const version = layoutVersion.value;
  const scene = useMemo(
    () => tree && buildScene(tree, direction, (wiring) => layouts.get(wiring)),
    [tree, direction, version],
  );
  if (scene && tree) last.current = { graph: tree.model.graph, scene };
  if (last.current && tree && last.current.graph !== tree.model.graph)
    last.current = null;
  return last.current?.scene ?? null;
}

export function useMarks(
  scene: Scene | null,
  matches: ReadonlySet<string> | null,
  hidden: ReadonlySet<string> | null,
  earlier: TopologyTree | null,
  run: EndedRun | null,
): Marks {
  return useMemo(() => {
    const path = scene && run ? tracePath(scene, run) : null;
    const differences = new Map<string, Differences>();
    const collect = (tree: TopologyTree) => {
      const model = buildModel(tree.topology);
      differences.set(model.graph, differencesFrom(model));
      tree.children.forEach(collect);
    };
    if (earlier) collect(earlier);
    return {
      matches,
      hidden: scene && hidden ? withContents(scene, hidden) : new Set<string>(),
      steps: path?.steps ?? null,
      taken: path?.taken ?? new Set<string>(),
      missing: path?.missing ?? [],
      differences,
    };
  }, [scene, matches, hidden, earlier, run]);
}

/** Returns the edges whose count has grown since the last update. */
export function useMoved(scene: Scene | null): Moved {
  const last = useRef<{ scene: Scene | null; moved: Moved }>({
    scene: null,
    moved: { keys: new Set(), update: 0 },
  });
  if (last.current.scene !== scene) {
    const before = new Map(
      last.current.scene?.edges.map(({ key, edge }) => [key, edge.count]),
    );
    const keys = (scene?.edges ?? [])
      .filter(({ key, edge }) => edge.count > (before.get(key) ?? Infinity))
      .map(({ key }) => key);
    // Between two answers the counts rest, and so do the edges that had moved.
    const isUpdate = keys.length > 0 || !scene;
    const { moved } = last.current;
    const next = { keys: new Set(keys), update: moved.update + 1 };
    last.current = { scene, moved: isUpdate ? next : moved };
  }
  return last.current.moved;
}

export function useDirection(): [{ current: HTMLDivElement | null }, Direction] {
  const stage = useRef<HTMLDivElement>(null);
  const [direction, setDirection] = useState<Direction>(
    window.innerWidth < NARROW ? "down" : "right",
  );
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) =>
      setDirection(entry!.contentRect.width < NARROW ? "down" : "right"),
    );
    if (stage.current) observer.observe(stage.current);
    return () => observer.disconnect();
  }, []);
  return [stage, direction];
}
