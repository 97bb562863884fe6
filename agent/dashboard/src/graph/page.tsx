// One graph: its drawing with search, comparison, replay, and the panel of a node.
import { useMemo, useState } from "preact/hooks";
import type { EndedRun } from "../api/types";
import { route } from "../state/route";
import { formatPlural } from "../ui/format";
import { Skeleton } from "../ui/panel";
import { GraphCanvas } from "./canvas";
import { COMPARISONS } from "./compare";
import { selectParts } from "./filter";
import { useDirection, useMarks, useMoved, useScene, useTopology } from "./hooks";
import { Legend } from "./legend";
import { agentTime, live } from "../state/live";
import { buildTree } from "./load";
import { NodeTable } from "./node-table";
import { Notices } from "./notices";
import { readOptions, selectPath, setOptions, toggleOpen } from "./options";
import { NodePanel } from "./panel";
import { ReplayBar } from "./replay";
import { pathKey, type Scene, type SceneNode } from "./scene";
import { GraphToolbar } from "./toolbar";

// More cannot be seen, and would make the page slow.
const MAX_DRAWN = 1500;

interface GraphPageProps {
  graph: string;
  /** A run to show as a path. */
  run: EndedRun | null;
  /** What is known of the run of the address. */
  runText: string | null;
}

export function GraphPage({ graph, run, runText }: GraphPageProps) {
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
    selectPath(path);
  };
  const selectedKey =
    current.node === null ? null : pathKey([current.node, ...options.inner]);
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
      <h1 class="hidden">Graph {graph}</h1>
      <GraphToolbar
        graph={graph}
        options={options}
        changed={graphs?.model.changed ?? null}
        scene={scene}
        find={find}
        hide={hide}
        svg={() => stage.current?.querySelector<SVGSVGElement>(".canvas svg") ?? null}
        onReplay={() =>
          setOptions({ replay: String(Math.floor(agentTime.value)) }, false)
        }
      />
      <Notices
        error={error}
        scene={scene}
        isDrawn={isDrawn}
        tree={tree}
        earlier={earlier}
        options={options}
        runText={runText}
        missing={marks.missing}
      />
      {options.replay !== null && (
        <ReplayBar
          time={Math.min(options.replay, agentTime.value)}
          now={agentTime.value}
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
          !scene && !error && <Skeleton lines={8} />
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

function describeGraph(scene: Scene, graph: string): string {
  return (
    `Graph ${graph}: ${formatPlural(scene.nodes.length, "node")} and ${formatPlural(scene.edges.length, "edge")}. ` +
    "Arrow keys move along edges, Enter opens a node. The Table button shows the same as a table."
  );
}

function focusNode(stage: HTMLElement | null, key: string): void {
  stage?.querySelector<SVGGElement>(`[data-key="${CSS.escape(key)}"]`)?.focus();
}
