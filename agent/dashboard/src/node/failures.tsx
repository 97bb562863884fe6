import { useRequest } from "../state/polled";
import { route } from "../state/route";
import { formatCount, formatDuration, formatTime } from "../ui/format";
import { Link } from "../ui/link";
import { Empty, ErrorNotice, Panel, Skeleton } from "../ui/panel";
import type { Failure, Failures } from "./types";

const SHOWN = 20;
const REFRESH_SECONDS = 5;

/** The latest failures of the node, each with its run, message and traceback. */
export function RecentFailures() {
  const { service, graph, node, window, end } = route.value;
  const { value, error } = useRequest<Failures>(
    "/api/v1/failures",
    { service, graph, node, window, end, limit: SHOWN },
    end === null ? REFRESH_SECONDS : null,
  );
  return (
    <Panel title="Recent failures" class="wide">
      {error && <ErrorNotice error={error} />}
      {value ? <List {...value} /> : <Skeleton lines={4} />}
    </Panel>
  );
}

function List({ failures, matching }: Failures) {
  if (!failures.length) return <Empty title="No failures in this period." />;
  return (
    <>
      <ul class="failures">
        {failures.map((failure) => (
          <Item key={`${failure.time} ${failure.client} ${failure.run}`} {...failure} />
        ))}
      </ul>
      {matching > failures.length && (
        <p class="note">
          The latest {failures.length} of {formatCount(matching)}.
        </p>
      )}
    </>
  );
}

/** The graph shows the path of the run up to the failure. */
function runRoute({ service, graph, run }: Failure) {
  return { view: "graph" as const, service, graph, node: null, run };
}

function Item(failure: Failure) {
  const { time, type, message, phase, attempts, outcome, seconds } = failure;
  const facts = [
    phase && `in ${phase}`,
    attempts > 1 && `${attempts} attempts`,
    seconds > 0 && `after ${formatDuration(seconds)}`,
    // An exception of an attempt after which another one was made.
    outcome !== "error" && (outcome === "ok" ? "retried" : outcome),
  ].filter(Boolean);
  return (
    <li>
      <div>
        <time title={new Date(time * 1000).toISOString()}>{formatTime(time)}</time>{" "}
        <b class="bad">{type}</b> <span class="note">{facts.join(", ")}</span>{" "}
        {failure.run && <Link to={runRoute(failure)}>run {failure.run}</Link>}{" "}
        {failure.trace_id && <span class="note">trace {failure.trace_id}</span>}
      </div>
      {message && <p>{message}</p>}
      {failure.traceback && (
        <details>
          <summary>Traceback</summary>
          <pre tabIndex={0}>{failure.traceback}</pre>
        </details>
      )}
    </li>
  );
}
