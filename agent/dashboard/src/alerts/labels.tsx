import type { Route } from "../state/route";
import { Link } from "../ui/link";

/** The labels of an alert, with a link to its node or graph. */
export function Labels({ labels }: { labels: Record<string, string> }) {
  const text = Object.entries(labels)
    .map(([name, value]) => `${name}=${value}`)
    .join(", ");
  if (!labels.graph) return <>{text || "everything"}</>;
  return <Link to={place(labels)}>{text}</Link>;
}

function place(labels: Record<string, string>): Partial<Route> {
  const { service = null, graph = null, node = null } = labels;
  return { view: node ? "node" : "graph", service, graph, node, alert: null };
}
