import type { ViewName } from "../state/route";

/** Returns the route to a node of a graph in the graph view. */
export function graphRoute(row: { service: string; graph: string; node: string }) {
  const { service, graph, node } = row;
  return { view: "graph" as ViewName, service, graph, node, run: null };
}

/** Names a run by its service, its graph and its id. */
export function RunName({
  run,
}: {
  run: { service: string; graph: string; run: string };
}) {
  return (
    <>
      <span class="quiet">{run.service} / </span>
      {run.graph} <code>{run.run || "without id"}</code>
    </>
  );
}
