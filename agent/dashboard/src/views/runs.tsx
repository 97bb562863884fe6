import { request } from "../api/client";
import type { EndedRun, RunEnd, RunInProgress, Runs } from "../api/types";
import { usePolled } from "../graph/load";
import { setOptions } from "../graph/options";
import {
  describePath,
  describeReason,
  isBadEnd,
  isFailure,
  sortInProgress,
  TROUBLES,
} from "../runs/order";
import "../runs/runs.css";
import { live } from "../graph/live";
import { route } from "../state/route";
import { formatCount, formatDuration, formatShare } from "../graph/units";
import { Link } from "../graph/link";

const REFRESH_MS = 5000;
const MAX_ROWS = 100;

/** Runs: those in trouble first, then the longest in progress; and those that ended. */
export function RunsView() {
  const { service, graph, node, window, end, options } = route.value;
  const query = { service, graph, window, end };
  const loaded = usePolled(
    JSON.stringify(query),
    (stop) => request<Runs>("api/v1/runs", query, { signal: stop }),
    end === null ? REFRESH_MS : null,
  ).value;
  const runs = loaded.value;
  const isOwn = (run: { service: string; graph: string; node: string }) =>
    (service === null || run.service === service) &&
    (graph === null || run.graph === graph) &&
    (node === null || run.node === node);
  // The event stream is newer than the last answer.
  const inProgress = (live.value?.runs ?? runs?.in_progress ?? []).filter(isOwn);
  const now = live.value?.time ?? runs?.time ?? Date.now() / 1000;
  const onlyFailed = options.ended === "failed";
  const ended = (runs?.ended ?? []).filter(
    (run) => isOwn(run) && (!onlyFailed || isFailure(run)),
  );
  return (
    <section class="runs-view">
      <h1>Runs{graph === null ? "" : ` of ${graph}`}</h1>
      {node !== null && (
        <p>
          At the node <b>{node}</b>. <Link to={{ node: null }}>Show all nodes</Link>
        </p>
      )}
      {loaded.error && <p role="alert">{loaded.error.message}</p>}
      <InProgress runs={sortInProgress(inProgress)} now={now} />
      {runs && (
        <div class="run-summaries">
          <Visits rows={runs.visits} />
          <Ends rows={runs.ends.filter(isOwn)} />
        </div>
      )}
      <label>
        <input
          type="checkbox"
          checked={onlyFailed}
          onChange={(event) =>
            setOptions({ ended: event.currentTarget.checked ? "failed" : null })
          }
        />{" "}
        Failed runs only
      </label>
      {(runs || !loaded.error) && <Ended runs={ended} isLoading={!runs} />}
    </section>
  );
}

function InProgress({ runs, now }: { runs: RunInProgress[]; now: number }) {
  return (
    <table class="runs">
      <caption>
        In progress <span class="count">{formatCount(runs.length)}</span>
      </caption>
      <thead>
        <tr>
          <th scope="col">Run</th>
          <th scope="col">Trouble</th>
          <th scope="col">For</th>
          <th scope="col">At</th>
          <th scope="col">There for</th>
          <th scope="col">Visits</th>
          <th scope="col">Process</th>
        </tr>
      </thead>
      <tbody>
        {runs.slice(0, MAX_ROWS).map((run) => (
          <tr
            key={JSON.stringify([run.client, run.graph, run.run, run.start])}
            class={run.trouble.length ? "troubled" : ""}
          >
            <th scope="row">
              <RunName run={run} />
            </th>
            <td>
              {run.trouble.map((trouble) => (
                <span
                  key={trouble}
                  class={`trouble ${trouble}`}
                  title={TROUBLES[trouble]}
                >
                  {trouble}
                </span>
              ))}
            </td>
            <td class="number">{since(run.start, now)}</td>
            <td>
              <Link
                to={{
                  ...{ view: "graph", service: run.service, graph: run.graph },
                  node: run.node,
                }}
              >
                {run.node}
              </Link>
            </td>
            <td class="number">{since(run.node_start, now)}</td>
            <td class="number">{formatCount(run.visits)}</td>
            <td>
              {run.host} pid {run.pid}
            </td>
          </tr>
        ))}
      </tbody>
      {runs.length > MAX_ROWS && (
        <tfoot>
          <tr>
            <td colSpan={7}>and {formatCount(runs.length - MAX_ROWS)} more</td>
          </tr>
        </tfoot>
      )}
      {runs.length === 0 && (
        <tfoot>
          <tr>
            <td colSpan={7}>No run is in progress.</td>
          </tr>
        </tfoot>
      )}
    </table>
  );
}

/** The client does not always know when a node has started. */
function since(start: number, now: number): string {
  return start > 0 ? formatDuration(Math.max(0, now - start)) : "–";
}

function RunName({ run }: { run: { service: string; graph: string; run: string } }) {
  return (
    <>
      <span class="place">
        {run.service} / {run.graph}
      </span>{" "}
      <code>{run.run || "without id"}</code>
    </>
  );
}

function Ended({ runs, isLoading }: { runs: EndedRun[]; isLoading: boolean }) {
  return (
    <table class="runs">
      <caption>
        Ended <span class="count">the latest {formatCount(runs.length)}</span>
      </caption>
      <thead>
        <tr>
          <th scope="col">Run</th>
          <th scope="col">Outcome</th>
          <th scope="col">Ended</th>
          <th scope="col">Took</th>
          <th scope="col">Visits</th>
          <th scope="col">At</th>
          <th scope="col">Because</th>
          <th scope="col">Path</th>
        </tr>
      </thead>
      <tbody>
        {runs.slice(0, MAX_ROWS).map((run, index) => (
          <EndedRow key={`${run.run} ${run.time} ${index}`} run={run} />
        ))}
      </tbody>
      {runs.length === 0 && (
        <tfoot>
          <tr>
            <td colSpan={8}>
              {isLoading
                ? "Loading …"
                : "No run ended in this period; try a longer one."}
            </td>
          </tr>
        </tfoot>
      )}
    </table>
  );
}

function EndedRow({ run }: { run: EndedRun }) {
  const isSelected = run.run !== "" && run.run === route.value.run;
  const place = { view: "graph" as const, service: run.service, graph: run.graph };
  return (
    <tr class={`${isFailure(run) ? "failed" : ""} ${isSelected ? "selected" : ""}`}>
      <th scope="row">
        <RunName run={run} />
      </th>
      <td>
        <span class={`outcome ${isFailure(run) ? "bad" : run.outcome}`}>
          {run.reason === "unmatched_action" ? "dead end" : run.outcome}
        </span>
      </td>
      <td>
        <time dateTime={new Date(run.time * 1000).toISOString()}>
          {clock(run.time)}
        </time>
      </td>
      <td class="number">{formatDuration(run.seconds)}</td>
      <td class="number">{formatCount(run.visits)}</td>
      <td>
        <Link to={{ ...place, node: run.node }}>{run.node}</Link>
      </td>
      <td>{describeReason(run.reason, run.action)}</td>
      <td class="path">
        {run.path.length > 0 && describePath(run.path)}{" "}
        {run.run !== "" && run.path.length > 0 && (
          <Link to={{ ...place, node: null, run: run.run }}>Show on the graph</Link>
        )}
      </td>
    </tr>
  );
}

const clock = (time: number) =>
  new Date(time * 1000).toLocaleTimeString([], { hour12: false });

function Visits({ rows }: { rows: Runs["visits"] }) {
  const most = Math.max(1, ...rows.map(([, , runs]) => runs));
  const total = rows.reduce((sum, [, , runs]) => sum + runs, 0);
  return (
    <table class="bars">
      <caption>Visits per run</caption>
      <thead class="hidden">
        <tr>
          <th scope="col">Visits</th>
          <th scope="col">Runs</th>
        </tr>
      </thead>
      <tbody>
        {rows.map(([least, greatest, runs]) => (
          <tr key={least}>
            <th scope="row">
              {least === greatest ? least : `${least} to ${greatest}`}
            </th>
            <td title={`${runs} runs, ${formatShare(runs / Math.max(1, total))}`}>
              <Bar share={runs / most} /> {formatCount(runs)}
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function Ends({ rows }: { rows: RunEnd[] }) {
  const most = Math.max(1, ...rows.map(({ count }) => count));
  return (
    <table class="bars">
      <caption>Why runs ended</caption>
      <thead class="hidden">
        <tr>
          <th scope="col">Reason</th>
          <th scope="col">Runs</th>
        </tr>
      </thead>
      <tbody>
        {rows.slice(0, 12).map((end) => (
          <tr key={JSON.stringify(end)} class={isBadEnd(end) ? "failed" : ""}>
            <th scope="row">
              {describeReason(end.reason, end.action)} at{" "}
              <Link
                to={{
                  ...{ view: "graph", service: end.service, graph: end.graph },
                  node: end.node,
                }}
              >
                {end.node}
              </Link>
            </th>
            <td>
              <Bar share={end.count / most} /> {formatCount(end.count)}
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function Bar({ share }: { share: number }) {
  return (
    <svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">
      <rect width={Math.max(1, 100 * share)} height="8" />
    </svg>
  );
}
