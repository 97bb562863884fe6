// One graph: its drawing with search, comparison, replay, and the panel of a node.
import { signal } from "@preact/signals";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { EndedRun } from "../api/types";
import { live } from "./live";
import { navigate, route, type Route } from "../state/route";
import { GraphCanvas } from "./canvas";
import { comparisonEnd, COMPARISONS, differencesFrom, hasFigures } from "./compare";
import { LayoutCache, WorkerEngine } from "./compute";
import type { Differences } from "./compare";
import type { Marks } from "./draw";
import { selectParts, withContents } from "./filter";
import type { Direction } from "./layout";
import { Legend } from "./legend";
import { buildTree, loadTree, usePolled, type TopologyTree } from "./load";
import { buildModel } from "./model";
import { NodeTable } from "./node-table";
import { readOptions, setOptions, toggleOpen, type GraphOptions } from "./options";
import { NodePanel } from "./panel";
import { tracePath } from "./path";
import { ReplayBar } from "./replay";
import {
  buildScene,
  pathKey,
  type GraphTree,
  type Scene,
  type SceneNode,
} from "./scene";
import { GraphToolbar } from "./toolbar";

// Figures come with the event stream; edges and other periods are read again this often.
const REFRESH_MS = 5000;
// Narrower, the graph is drawn from above.
const NARROW = 640;
// More cannot be seen, and would make the page slow.
const MAX_DRAWN = 1500;
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

interface GraphPageProps {
  graph: string;
  /** A run to show as a path. */
  run: EndedRun | null;
}

export function GraphPage({ graph, run }: GraphPageProps) {
  const current = route.value;
  const options = readOptions(current.options);
  const { tree, earlier, error, period, isLoading } = useTopology(
    graph,
    current,
    options,
  );
  const isLive = period.end === null;
  const isSamePeriod = isLive && live.value?.window === current.window;
  const graphs = useMemo(
    () => tree && buildTree(tree, isLive ? live.value : null, isSamePeriod, earlier),
    [tree, isLive ? live.value : null, isSamePeriod, earlier],
  );
  const [stage, direction] = useDirection();
  const scene = useScene(graphs, direction);
  const [hasFocus, setHasFocus] = useState(false);
  const moved = useMoved(scene);
  const find = useMemo(
    () => scene && selectParts(scene, options.find),
    [scene, options.find],
  );
  const hide = useMemo(
    () => scene && selectParts(scene, options.hide),
    [scene, options.hide],
  );
  const marks = useMarks(scene, find?.keys ?? null, hide?.keys ?? null, earlier, run);
  const select = (path: readonly string[] | null) => {
    setHasFocus(path !== null);
    navigate({ node: path ? formatPath(path) : null }, true);
  };
  const selectedKey =
    current.node === null ? null : pathKey(parsePath(current.node, scene));
  const selected = scene?.nodes.find(({ key }) => key === selectedKey) ?? null;
  const close = () => {
    const key = selected?.key;
    select(null);
    if (key) focusNode(stage.current, key);
  };
  const toggle = (item: SceneNode) => toggleOpen(options.open, item.key);
  const isDrawn = scene !== null && scene.nodes.length <= MAX_DRAWN;
  return (
    <section class="graph-page" aria-label={`Graph ${graph}`}>
      <GraphToolbar
        graph={graph}
        options={options}
        changed={graphs?.model.changed ?? null}
        scene={scene}
        find={find}
        hide={hide}
        svg={() => stage.current?.querySelector<SVGSVGElement>(".canvas svg") ?? null}
        onReplay={() => setOptions({ replay: String(Math.floor(nowSeconds())) }, false)}
      />
      <Notices
        error={error}
        scene={scene}
        isDrawn={isDrawn}
        tree={tree}
        earlier={earlier}
        options={options}
        run={run}
      />
      {options.replay !== null && (
        <ReplayBar
          time={Math.min(options.replay, nowSeconds())}
          now={nowSeconds()}
          window={period.window}
          isLoading={isLoading}
          onChange={(time) => setOptions({ replay: String(Math.floor(time)) })}
          onClose={() => setOptions({ replay: null }, false)}
        />
      )}
      <div class="graph-stage" ref={stage}>
        {isDrawn ? (
          <GraphCanvas
            scene={scene}
            marks={marks}
            title={describeGraph(scene, graph)}
            selected={selectedKey}
            moved={moved}
            onOpen={(item) => select(item.path)}
            onToggle={toggle}
            onClose={close}
          />
        ) : (
          !scene && !error && <p class="skeleton">Loading the graph …</p>
        )}
        {selected && (
          <NodePanel
            item={selected}
            differences={marks.differences.get(selected.model.graph)}
            comparison={options.compare && COMPARISONS[options.compare]}
            hasFocus={hasFocus}
            onClose={close}
            onSelect={(node) => select([...selected.path.slice(0, -1), node])}
            onToggle={toggle}
          />
        )}
      </div>
      {options.legend && <Legend />}
      {scene && (options.table || !isDrawn || scene.reason !== null) && (
        <NodeTable
          nodes={scene.nodes.filter(
            ({ key }) => !marks.hidden.has(key) && (marks.matches?.has(key) ?? true),
          )}
          edges={scene.edges}
          selected={selectedKey}
          onOpen={(item) => select(item.path)}
        />
      )}
    </section>
  );
}

const nowSeconds = () => live.value?.time ?? Date.now() / 1000;

// A node of the graph itself is named as everywhere else in the page; one of a nested graph
// by its path.
const PATH = "path:";

function formatPath(path: readonly string[]): string {
  return path.length === 1 && !path[0]!.startsWith(PATH)
    ? path[0]!
    : PATH + JSON.stringify(path);
}

function parsePath(text: string, scene: Scene | null): string[] {
  if (scene?.nodes.some(({ key }) => key === pathKey([text]))) return [text];
  if (!text.startsWith(PATH)) return [text];
  try {
    const path: unknown = JSON.parse(text.slice(PATH.length));
    return Array.isArray(path) ? path.map(String) : [text];
  } catch {
    return [text];
  }
}

function describeGraph(scene: Scene, graph: string): string {
  return (
    `Graph ${graph}: ${scene.nodes.length} nodes and ${scene.edges.length} edges. ` +
    "Arrow keys move along edges, Enter opens a node. The Table button shows the same as a table."
  );
}

function focusNode(stage: HTMLElement | null, key: string): void {
  stage?.querySelector<SVGGElement>(`[data-key="${CSS.escape(key)}"]`)?.focus();
}

/** Loads the graph in the period, and in the earlier one to compare with. */
function useTopology(graph: string, current: Route, options: GraphOptions) {
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
    period.end === null ? REFRESH_MS : null,
  ).value;
  // The first key names the graph: another graph's drawing must not stay.
  const tree =
    loaded.value?.topology.graph === graph ? (loaded.value as TopologyTree) : null;
  const changed = tree?.topology.changed ?? null;
  const end =
    options.compare && tree
      ? comparisonEnd(options.compare, minuteOf(period.end ?? nowSeconds()), changed)
      : null;
  const earlierKey = end === null ? null : JSON.stringify([key, end]);
  const earlier = usePolled(
    earlierKey,
    (stop) =>
      loadTree(service, graph, { window: period.window, end }, options.open, stop),
    null,
  ).value;
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
function useScene(tree: GraphTree | null, direction: Direction): Scene | null {
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

function useMarks(
  scene: Scene | null,
  matches: ReadonlySet<string> | null,
  hidden: ReadonlySet<string> | null,
  earlier: TopologyTree | null,
  run: EndedRun | null,
): Marks {
  return useMemo(() => {
    const path = scene && run ? tracePath(scene, run.path) : null;
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
      differences,
    };
  }, [scene, matches, hidden, earlier, run]);
}

/** Returns the edges whose count has grown since the last update. */
function useMoved(scene: Scene | null): ReadonlySet<string> {
  const last = useRef<{ scene: Scene | null; moved: Set<string> }>({
    scene: null,
    moved: new Set(),
  });
  if (last.current.scene !== scene) {
    const before = new Map(
      last.current.scene?.edges.map(({ key, edge }) => [key, edge.count]),
    );
    const moved = (scene?.edges ?? [])
      .filter(({ key, edge }) => edge.count > (before.get(key) ?? Infinity))
      .map(({ key }) => key);
    // Between two answers the counts rest, and so do the edges that had moved.
    const isUpdate = moved.length > 0 || !scene;
    last.current = { scene, moved: isUpdate ? new Set(moved) : last.current.moved };
  }
  return last.current.moved;
}

function useDirection(): [{ current: HTMLDivElement | null }, Direction] {
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

interface NoticesProps {
  error: Error | null;
  scene: Scene | null;
  isDrawn: boolean;
  tree: TopologyTree | null;
  earlier: TopologyTree | null;
  options: GraphOptions;
  run: EndedRun | null;
}

function Notices({ error, scene, isDrawn, tree, earlier, options, run }: NoticesProps) {
  const notices: string[] = [];
  if (error) notices.push(`The graph could not be loaded: ${error.message}`);
  if (scene && !isDrawn) {
    notices.push(
      `${scene.nodes.length} nodes are too many for a drawing; the table has all of them.`,
    );
  } else if (scene?.reason) {
    notices.push(`${scene.reason} This is a simple drawing in layers.`);
  }
  if (options.compare === "change" && tree && tree.topology.changed === null) {
    notices.push(
      "The graph has not changed as far as is known: nothing to compare with.",
    );
  } else if (earlier && !hasFigures(earlier.topology)) {
    notices.push(
      `No executions in the period to compare with (${COMPARISONS[options.compare!]}).`,
    );
  }
  if (run) notices.push(describeRun(run));
  return (
    <div class="notices" aria-live="polite">
      {notices.map((notice) => (
        <p key={notice}>{notice}</p>
      ))}
    </div>
  );
}

function describeRun(run: EndedRun): string {
  const end = run.reason ? `: ${run.reason}` : "";
  const path = run.path.length ? "" : "; its path is not known";
  return `Run ${run.run || "without id"} ended at ${run.node} with ${run.outcome}${end}${path}.`;
}
