import { signal } from "@preact/signals";

export const VIEW_NAMES = [
  "overview",
  "graph",
  "node",
  "runs",
  "models",
  "alerts",
  "processes",
] as const;
export type ViewName = (typeof VIEW_NAMES)[number];

/**
 * What the page shows. All of it is in the address, so that a copied link shows the same.
 *
 * `window` is a duration such as "5m". `end` is the end of the time range in Unix seconds;
 * null means now, and the page is live. `options` are the parameters of single views, such
 * as the search text or the period to compare with.
 */
export interface Route {
  view: ViewName;
  service: string | null;
  graph: string | null;
  node: string | null;
  run: string | null;
  alert: string | null;
  window: string;
  end: number | null;
  options: Record<string, string>;
}

export const DEFAULT_WINDOW = "5m";
const NAMES = ["service", "graph", "node", "run", "alert"] as const;

/** Reads the parameters of an address; unknown values fall back to the defaults. */
export function parseRoute(search: string): Route {
  const params = new URLSearchParams(search);
  const names = Object.fromEntries(NAMES.map((name) => [name, params.get(name)]));
  const end = Number(params.get("end"));
  const known = new Set<string>([...NAMES, "view", "window", "end"]);
  return {
    ...(names as Pick<Route, (typeof NAMES)[number]>),
    view: viewOf(params),
    window: /^\d+[smhdw]?$/.test(params.get("window") ?? "")
      ? (params.get("window") as string)
      : DEFAULT_WINDOW,
    end: params.has("end") && Number.isFinite(end) && end > 0 ? end : null,
    options: Object.fromEntries([...params].filter(([key]) => !known.has(key))),
  };
}

// Links in notifications name an alert, a node or a graph, and no view.
function viewOf(params: URLSearchParams): ViewName {
  const name = params.get("view");
  if (VIEW_NAMES.includes(name as ViewName)) return name as ViewName;
  if (params.has("alert")) return "alerts";
  if (params.has("node")) return "node";
  return params.has("graph") ? "graph" : "overview";
}

/** Returns the address of a route: "?..." with only what differs from the defaults. */
export function formatRoute(route: Route): string {
  const params = new URLSearchParams();
  // A node or a graph alone would open its own view.
  const isNamed = NAMES.some((name) => route[name] !== null);
  if (isNamed || route.view !== "overview") params.set("view", route.view);
  for (const name of NAMES) if (route[name] !== null) params.set(name, route[name]);
  if (route.window !== DEFAULT_WINDOW) params.set("window", route.window);
  if (route.end !== null) params.set("end", String(route.end));
  for (const [key, value] of Object.entries(route.options)) params.set(key, value);
  const text = params.toString();
  return text ? `?${text}` : "./";
}

/** The names of a place: what is shown is selected by some of them. */
export type Place = Pick<Route, "service" | "graph" | "node">;

// An address keeps the other names for the views that select by them.
const SELECTED_BY: Record<ViewName, readonly (keyof Place)[]> = {
  overview: ["service"],
  graph: ["service", "graph", "node"],
  node: ["service", "graph", "node"],
  // Runs belong to a graph; those of a node may fail at another one.
  runs: ["service", "graph"],
  models: ["service", "graph", "node"],
  alerts: ["service"],
  processes: ["service"],
};

/** Returns the place whose data the view of a route shows. */
export function shownPlace({ view, ...names }: Place & Pick<Route, "view">): Place {
  const pick = (name: keyof Place) =>
    SELECTED_BY[view].includes(name) ? names[name] : null;
  return { service: pick("service"), graph: pick("graph"), node: pick("node") };
}

export const route = signal<Route>(
  parseRoute(typeof location === "undefined" ? "" : location.search),
);

if (typeof window !== "undefined") {
  window.addEventListener("popstate", () => {
    route.value = parseRoute(location.search);
  });
}

/** Changes the route; `replace` keeps it out of the browser's history. */
export function navigate(change: Partial<Route>, replace = false): void {
  const next = { ...route.value, ...change };
  if (replace) history.replaceState(null, "", formatRoute(next));
  else history.pushState(null, "", formatRoute(next));
  route.value = next;
}
