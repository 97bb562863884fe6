import { route } from "./state/route";
import { AlertsView } from "./views/alerts";
import { GraphView } from "./views/graph";
import { ModelsView } from "./views/models";
import { NodeView } from "./views/node";
import { OverviewView } from "./views/overview";
import { ProcessesView } from "./views/processes";
import { RunsView } from "./views/runs";

/** The page: the view that the address names. */
export function App() {
  const View = VIEWS[route.value.view];
  return (
    <main>
      <View />
    </main>
  );
}

const VIEWS = {
  overview: OverviewView,
  graph: GraphView,
  node: NodeView,
  runs: RunsView,
  models: ModelsView,
  alerts: AlertsView,
  processes: ProcessesView,
};
