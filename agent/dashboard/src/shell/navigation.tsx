import { computed } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { live } from "../state/live";
import { route, type ViewName } from "../state/route";
import { Link } from "../ui/link";

export const VIEWS: { view: ViewName; label: string; icon: string }[] = [
  {
    view: "overview",
    label: "Overview",
    icon: "M2 2h5v7H2zM9 2h5v4H9zM9 8h5v6H9zM2 11h5v3H2z",
  },
  {
    view: "graph",
    label: "Graph",
    icon: "M1 6h5v4H1zM10 1h5v4h-5zM10 11h5v4h-5zM6 7.5h2V3h2v1H9v8h1v1H8V8.5H6z",
  },
  {
    view: "node",
    label: "Node",
    icon: "M2 2h1v11h11v1H2zM5 8h2v4H5zM8 4h2v8H8zM11 6h2v6h-2z",
  },
  { view: "runs", label: "Runs", icon: "M2 3h12v2H2zM2 7h8v2H2zM2 11h10v2H2z" },
  { view: "models", label: "Models", icon: "M8 1l2 5 5 2-5 2-2 5-2-5-5-2 5-2z" },
  {
    view: "alerts",
    label: "Alerts",
    icon: "M8 1a4.500 4.500 0 0 1 4.500 4.500c0 4 1.500 5 1.500 6.500H2c0-1.500 1.500-2.500 1.500-6.500A4.500 4.500 0 0 1 8 1zM6 13h4a2 2 0 0 1-4 0z",
  },
  {
    view: "processes",
    label: "Processes",
    icon: "M2 2h12v5H2zM2 9h12v5H2zM4 4v1h2V4zM4 11v1h2v-1z",
  },
];

// As on the overview, several alerts with one cause count once.
const firingAlerts = computed(
  () =>
    live.value?.alerts.filter(
      ({ state, same_cause }) => state === "firing" && same_cause === "",
    ).length ?? 0,
);

/** The views, with the number of firing alerts. */
export function Navigation(): ComponentChildren {
  const current = route.value;
  const firing = firingAlerts.value;
  return (
    <nav class="rail" aria-label="Views">
      <Link to={{ ...NOTHING, view: "overview" }} class="brand">
        <svg viewBox="0 0 16 16" aria-hidden="true">
          <path d="M1 13l4-6 3 3 3-7 4 10" />
        </svg>
        <span>kaywatch</span>
      </Link>
      {VIEWS.map(({ view, label, icon }) => (
        <Link key={view} to={{ view }} isCurrent={current.view === view}>
          <svg viewBox="0 0 16 16" aria-hidden="true">
            <path d={icon} />
          </svg>
          <span>{label}</span>
          {view === "alerts" && firing > 0 && (
            <span class="count" aria-label={`${firing} firing`}>
              {firing}
            </span>
          )}
        </Link>
      ))}
    </nav>
  );
}

export const NOTHING = {
  service: null,
  graph: null,
  node: null,
  run: null,
  alert: null,
  options: {},
};
