import type { RunInProgress, Runs } from "../api/types";
import { FailedTable } from "../runs/failed";
import { sortInProgress } from "../runs/order";
import { InProgressTable } from "../runs/in-progress";
import "../runs/runs.css";
import { EndReasons, RunLengths } from "../runs/summaries";
import { live } from "../state/live";
import { useRequest } from "../state/polled";
import { route, shownPlace } from "../state/route";
import { formatCount } from "../ui/format";
import { ErrorNotice, Panel, Skeleton } from "../ui/panel";

const REFRESH_SECONDS = 5;

/** Runs of a graph or of all: those in trouble first, the longest next; failed ones. */
export function RunsView() {
  const { window, end } = route.value;
  const { service, graph } = shownPlace(route.value);
  const { value: runs, error } = useRequest<Runs>(
    "api/v1/runs",
    { service, graph, window, end },
    end === null ? REFRESH_SECONDS : null,
  );
  const isOwn = (run: { service: string; graph: string }) =>
    (service === null || run.service === service) &&
    (graph === null || run.graph === graph);
  const inProgress = listInProgress(runs)?.filter(isOwn) ?? null;
  const failed = runs?.ended.filter(isOwn);
  return (
    <section class="runs-view">
      <h1>{graph === null ? "Runs" : `Runs of ${graph}`}</h1>
      {error && <ErrorNotice error={error} />}
      <Panel
        title={`In progress${inProgress ? ` (${formatCount(inProgress.length)})` : ""}`}
      >
        {inProgress ? (
          <InProgressTable runs={sortInProgress(inProgress)} />
        ) : (
          <Skeleton lines={2} />
        )}
      </Panel>
      {runs && (
        <div class="columns">
          <RunLengths subject={graph ?? service ?? ""} rows={runs.visits} />
          <EndReasons subject={graph ?? service ?? ""} rows={runs.ends.filter(isOwn)} />
        </div>
      )}
      <Panel title="Failed runs">
        {failed ? <FailedTable runs={failed} /> : !error && <Skeleton lines={5} />}
      </Panel>
    </section>
  );
}

/** Returns the runs in progress: from the stream if it has all of them. */
function listInProgress(runs: Runs | null): RunInProgress[] | null {
  const known = live.value;
  if (known && known.runs.length >= known.runs_in_progress) return known.runs;
  return runs?.in_progress ?? null;
}
