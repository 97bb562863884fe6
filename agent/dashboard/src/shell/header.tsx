import { navigate, route, shownPlace } from "../state/route";
import { Link } from "../ui/link";
import { NOTHING } from "./navigation";
import { LiveState } from "./live-state";
import { TimeRange } from "./time-range";

interface HeaderProps {
  onSearch: () => void;
  onHelp: () => void;
}

/** Where one is, the time range, whether the page is live, and the search. */
export function Header({ onSearch, onHelp }: HeaderProps) {
  return (
    <header class="top">
      <Breadcrumbs />
      <div class="tools">
        <TimeRange />
        <LiveState />
        <button type="button" class="search" onClick={onSearch} aria-label="Search">
          Search <kbd>/</kbd>
        </button>
        <button type="button" onClick={onHelp} aria-label="Keyboard shortcuts">
          ?
        </button>
      </div>
    </header>
  );
}

function Breadcrumbs() {
  const { service, graph, node } = shownPlace(route.value);
  return (
    <nav class="breadcrumbs" aria-label="Breadcrumbs">
      <ol>
        <li>
          <Link to={{ ...NOTHING, view: "overview" }}>All services</Link>
        </li>
        {service !== null && (
          <li>
            <Link to={{ ...NOTHING, view: "overview", service }}>{service}</Link>
          </li>
        )}
        {graph !== null && (
          <li>
            <Link to={{ ...NOTHING, view: "graph", service, graph }}>
              {graph || "no graph"}
            </Link>
          </li>
        )}
        {node !== null && (
          <li>
            <Link to={{ ...NOTHING, view: "node", service, graph, node }}>{node}</Link>
          </li>
        )}
      </ol>
      {(service ?? graph ?? node) !== null && (
        <button
          type="button"
          class="quiet"
          aria-label="Show all services"
          title="Show all services"
          onClick={() => navigate({ ...NOTHING, view: "overview" })}
        >
          ×
        </button>
      )}
    </nav>
  );
}
