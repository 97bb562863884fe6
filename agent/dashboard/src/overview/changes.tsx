import { useState } from "preact/hooks";
import type { Change } from "../api/types";
import { useRequest } from "../state/polled";
import { groupStarts } from "./group-starts";
import type { Level } from "../ui/badge";
import { severityLevel, StatusMark } from "../ui/badge";
import { Age } from "../ui/age";
import { formatTime } from "../ui/format";
import { Link } from "../ui/link";
import { Empty, ErrorNotice, Skeleton } from "../ui/panel";
import type { Route } from "../state/route";

const LEVELS: Record<Exclude<Change["kind"], "alert">, Level> = {
  process_started: "good",
  process_ended: "quiet",
  process_died: "bad",
  version: "info",
  topology: "info",
  new_graph: "info",
  new_node: "info",
  new_error: "warning",
};

const FIRST = 8;

/** What is different from an hour ago, the latest first. */
export function Changes({ service }: { service: string | null }) {
  const [isWhole, setIsWhole] = useState(false);
  const { value, error } = useRequest<{ changes: Change[] }>(
    "api/v1/changes",
    { since: "1h", service },
    10,
  );
  if (!value) return error ? <ErrorNotice error={error} /> : <Skeleton />;
  if (!value.changes.length) {
    return <Empty title="Nothing has changed within the last hour." />;
  }
  const changes = groupStarts(value.changes);
  const shown = isWhole ? changes : changes.slice(0, FIRST);
  return (
    <>
      <ol class="changes">
        {shown.map((change, index) => (
          <Row key={`${change.time} ${index}`} change={change} />
        ))}
      </ol>
      {changes.length > shown.length && (
        <button type="button" class="more" onClick={() => setIsWhole(true)}>
          Show {changes.length - shown.length} more
        </button>
      )}
    </>
  );
}

function Row({ change }: { change: Change }) {
  return (
    <li>
      <StatusMark level={levelOf(change)} />
      <span>
        <Link to={targetOf(change)}>{change.text}</Link>
        {change.service && change.kind !== "alert" && (
          <span class="quiet"> {change.service}</span>
        )}
      </span>
      <time title={formatTime(change.time)}>
        <Age time={change.time} />
      </time>
    </li>
  );
}

/** An alert that resolves is good news; one whose data stopped is no news. */
function levelOf({ kind, severity, text }: Change): Level {
  if (kind !== "alert") return LEVELS[kind];
  if (text.startsWith("no data: ")) return "quiet";
  return text.startsWith("resolved: ") ? "good" : severityLevel(severity);
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
