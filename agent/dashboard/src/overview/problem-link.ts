// Where a problem is, in words and as a route.
import type { Problem } from "../api/types";
import { shownPlace, type Place, type Route } from "../state/route";

/** Returns "service / graph / node", as far as they are known. */
export function placeOf({ service, graph, node }: Problem): string {
  return [service, graph, node].filter(Boolean).join(" / ");
}

/** Returns the route to the view that shows a problem. */
export function targetOf(problem: Problem): Partial<Route> {
  const { kind, service, graph, node, run, alerts } = problem;
  const place = {
    service: service || null,
    graph: graph || null,
    node: node || null,
    run: run || null,
  };
  switch (kind) {
    case "alert":
      return { view: "alerts", alert: alerts[0]?.id ?? null };
    case "memory":
    case "process_died":
      return { ...place, view: "processes" };
    case "runaway":
    case "stuck":
      return { ...place, node: null, view: "runs" };
    case "wasted_spend":
    case "cost_per_run":
      return { ...place, view: "models" };
    case "dead_end":
    case "never_reached":
    case "drift":
    case "silent":
      return { ...place, view: "graph" };
    default:
      return { ...place, view: "node" };
  }
}

/** Whether a view shows a problem: it is about the view's subject and place. */
export function isShownBy(
  shown: Place & Pick<Route, "view">,
  problem: Problem,
): boolean {
  const { view } = shown;
  const { service, graph, node } = shownPlace(shown);
  // The view of alerts lists them itself.
  if (problem.kind === "alert" && view === "alerts") return false;
  const isPlace =
    (service === null || service === problem.service) &&
    (graph === null || graph === problem.graph) &&
    (node === null || node === problem.node || (view !== "node" && !problem.node));
  if (!isPlace) return false;
  const target = targetOf(problem).view;
  switch (view) {
    case "graph":
      return graph !== null && problem.graph !== "";
    case "node":
      return node !== null;
    case "models":
      return (problem.cost_usd ?? 0) > 0;
    default:
      return view === target;
  }
}
