import { useEffect, useState } from "preact/hooks";
import { ProblemsHere } from "./overview/problems";
import { Header } from "./shell/header";
import { Help } from "./shell/help";
import { listenToKeys } from "./shell/keyboard";
import { Notices } from "./shell/live-state";
import { Login } from "./shell/login";
import { Navigation, VIEWS } from "./shell/navigation";
import { Search } from "./shell/search";
import { route, shownPlace } from "./state/route";
import { loginReason, token } from "./state/token";
import { AlertsView } from "./views/alerts";
import { GraphView } from "./views/graph";
import { ModelsView } from "./views/models";
import { NodeView } from "./views/node";
import { OverviewView } from "./views/overview";
import { ProcessesView } from "./views/processes";
import { RunsView } from "./views/runs";

const COMPONENTS = {
  overview: OverviewView,
  graph: GraphView,
  node: NodeView,
  runs: RunsView,
  models: ModelsView,
  alerts: AlertsView,
  processes: ProcessesView,
};

/** The page: navigation, header, and the view that the address names. */
export function App() {
  const [dialog, setDialog] = useState<"search" | "help" | null>(null);
  const close = () => setDialog(null);
  const { view, end } = route.value;
  const { graph, node } = shownPlace(route.value);
  // The overview lists all problems, and the alerts are about them.
  const hasProblems = end === null && view !== "overview" && view !== "alerts";
  const View = COMPONENTS[view];
  useEffect(
    () =>
      listenToKeys(
        () => setDialog("search"),
        () => setDialog("help"),
      ),
    [],
  );
  useEffect(() => {
    const label = VIEWS.find((each) => each.view === view)?.label ?? "";
    document.title = `${node ?? graph ?? label} · kaywatch`;
  }, [view, graph, node]);
  return (
    <>
      <a
        class="skip"
        href="#main"
        onClick={(event) => {
          event.preventDefault();
          document.getElementById("main")?.focus();
        }}
      >
        Skip to the content
      </a>
      <Navigation />
      <div class="page">
        <Header onSearch={() => setDialog("search")} onHelp={() => setDialog("help")} />
        <Notices />
        {/* A new token loads everything anew. */}
        <main id="main" tabIndex={-1} key={token.value ?? ""}>
          {hasProblems && <ProblemsHere />}
          <View />
        </main>
      </div>
      {dialog === "search" && <Search onClose={close} />}
      {dialog === "help" && <Help onClose={close} />}
      {loginReason.value !== null && <Login />}
    </>
  );
}
