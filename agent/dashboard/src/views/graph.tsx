import { request } from "../api/client";
import type { Runs } from "../api/types";
import { live } from "../graph/live";
import { Link } from "../graph/link";
import { usePolled } from "../graph/load";
import { GraphPage } from "../graph/page";
import { route } from "../state/route";
import "../graph/graph.css";

/** One graph, or the list of graphs if none is chosen. */
export function GraphView() {
  const { graph, run } = route.value;
  const loaded = usePolled(
    run,
    (stop) => request<Runs>("api/v1/runs", { run }, { signal: stop }),
    null,
  ).value;
  if (graph === null) return <GraphList />;
  const runs = loaded.key === run ? loaded.value : null;
  return (
    <GraphPage
      key={graph}
      graph={graph}
      run={runs?.ended.find((each) => each.run === run && each.graph === graph) ?? null}
      isRunMissing={run !== null && runs !== null && runs.ended.length === 0}
    />
  );
}

function GraphList() {
  const rows = live.value?.graphs ?? [];
  return (
    <section>
      <h1>Graphs</h1>
      <ul>
        {rows.map(({ service, graph }) => (
          <li key={JSON.stringify([service, graph])}>
            <Link to={{ service, graph }}>
              {service} / {graph}
            </Link>
          </li>
        ))}
      </ul>
    </section>
  );
}
