import type { Runs } from "../api/types";
import "../graph/graph.css";
import { GraphPage } from "../graph/page";
import { GraphTable } from "../overview/graphs";
import { describeRun } from "../runs/words";
import { live } from "../state/live";
import { useRequest } from "../state/polled";
import { route } from "../state/route";
import { Empty, Panel, Skeleton } from "../ui/panel";

/** One graph, or the list of graphs if none is chosen. */
export function GraphView() {
  const { graph, run } = route.value;
  if (graph === null) return <GraphList />;
  return run === null ? (
    <GraphPage key={graph} graph={graph} run={null} runText={null} />
  ) : (
    <GraphOfRun key={graph} graph={graph} run={run} />
  );
}

function GraphOfRun({ graph, run }: { graph: string; run: string }) {
  const { value } = useRequest<Runs>("api/v1/runs", { run, graph }, null);
  const ended = value?.ended.find((each) => each.run === run) ?? null;
  return (
    <GraphPage
      graph={graph}
      run={ended}
      runText={value && describeRun(run, ended, value.in_progress)}
    />
  );
}

function GraphList() {
  const rows = live.value?.graphs;
  return (
    <section>
      <h1>Graphs</h1>
      {!rows ? (
        <Skeleton lines={6} />
      ) : rows.length ? (
        <Panel title="Choose a graph">
          <GraphTable rows={rows} />
        </Panel>
      ) : (
        <Empty title="No graph has run yet.">
          <p>Graphs appear here with their first run.</p>
        </Empty>
      )}
    </section>
  );
}
