import { GraphPage } from "../graph/page";
import { live } from "../graph/live";
import { route } from "../state/route";
import { Link } from "../graph/link";
import "../graph/graph.css";

export function GraphView() {
  const { graph } = route.value;
  return graph === null ? (
    <GraphList />
  ) : (
    <GraphPage key={graph} graph={graph} run={null} />
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
