import { Fragment } from "preact";
import type { Route } from "../state/route";
import { Link } from "../ui/link";

/** The labels of an alert, with a link to its node or graph. */
export function Labels({ labels }: { labels: Record<string, string> }) {
  const names = Object.keys(labels);
  if (!names.length) return <>everything</>;
  // Each on a line of its own where they do not fit: a name is not broken.
  const text = names.map((name, index) => (
    <Fragment key={name}>
      <span class="label" title={`${name}=${labels[name]}`}>
        {name}={labels[name]}
        {index < names.length - 1 && ","}
      </span>{" "}
    </Fragment>
  ));
  return labels.graph ? <Link to={place(labels)}>{text}</Link> : <>{text}</>;
}

function place(labels: Record<string, string>): Partial<Route> {
  const { service = null, graph = null, node = null } = labels;
  return { view: node ? "node" : "graph", service, graph, node, alert: null };
}
