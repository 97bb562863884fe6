import type { Change } from "../api/types";
import { agentTime } from "../state/live";
import { useRequest } from "../state/polled";
import type { Level } from "../ui/badge";
import { StatusMark } from "../ui/badge";
import { formatAge, formatTime } from "../ui/format";
import { Link } from "../ui/link";
import { Empty, ErrorNotice, Skeleton } from "../ui/panel";
import type { Route } from "../state/route";

const LEVELS: Record<Change["kind"], Level> = {
  alert: "bad",
  process_started: "good",
  process_ended: "quiet",
  process_died: "bad",
  version: "info",
  topology: "info",
  new_graph: "info",
  new_node: "info",
  new_error: "warning",
};

/** What is different from an hour ago, the latest first. */
export function Changes({ service }: { service: string | null }) {
  const { value, error } = useRequest<{ changes: Change[] }>(
    "api/v1/changes",
    { since: "1h", service },
    10,
  );
  if (!value) return error ? <ErrorNotice error={error} /> : <Skeleton />;
  if (!value.changes.length) {
    return <Empty title="Nothing has changed within the last hour." />;
  }
  return (
    <ol class="changes">
      {value.changes.map((change, index) => (
        <li key={`${change.time} ${index}`}>
          <StatusMark level={LEVELS[change.kind]} />
          <span>
            <Link to={targetOf(change)}>{change.text}</Link>
            {change.service && <span class="quiet"> {change.service}</span>}
          </span>
          <time title={formatTime(change.time)}>
            {formatAge(change.time, agentTime.value)}
          </time>
        </li>
      ))}
    </ol>
  );
}

function targetOf({ kind, service, graph, node }: Change): Partial<Route> {
  const place = {
    service: service || null,
    graph: graph || null,
    node: node || null,
  };
  if (kind === "alert") return { ...place, view: "alerts" };
  if (kind.startsWith("process") || kind === "version") {
    return { ...place, view: "processes" };
  }
  if (node) return { ...place, view: "node" };
  return { ...place, view: graph ? "graph" : "overview" };
}
