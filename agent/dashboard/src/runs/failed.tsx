import type { EndedRun } from "../api/types";
import { route } from "../state/route";
import { exact, formatCount, formatDuration, formatTime } from "../ui/format";
import { Link } from "../ui/link";
import { Empty } from "../ui/panel";
import { Table, type Column } from "../ui/table";
import { graphRoute, RunName } from "./name";
import { describePath, describeReason, describeVisits } from "./order";

const COLUMNS: Column<EndedRun>[] = [
  { key: "run", label: "Run", cell: (run) => <RunName run={run} /> },
  {
    key: "time",
    label: "Failed",
    isNumeric: true,
    value: (run) => run.time,
    cell: (run) => (
      <time dateTime={new Date(run.time * 1000).toISOString()}>
        {formatTime(run.time)}
      </time>
    ),
  },
  {
    key: "seconds",
    label: "Took",
    isNumeric: true,
    value: (run) => run.seconds,
    cell: (run) => formatDuration(run.seconds),
    title: (run) => exact(run.seconds, "s"),
  },
  {
    key: "visits",
    label: "Visits",
    isNumeric: true,
    isMinor: true,
    value: (run) => run.visits,
    cell: (run) => formatCount(run.visits),
  },
  {
    key: "end",
    label: "End",
    isSentence: true,
    cell: (run) => (
      <>
        {describeReason(run.reason, run.action)} at{" "}
        <Link to={graphRoute(run)}>{run.node}</Link>
      </>
    ),
  },
  { key: "path", label: "Path", isMinor: true, cell: (run) => <Path run={run} /> },
];

function Path({ run }: { run: EndedRun }) {
  if (!run.path.length) return <span class="quiet">not known</span>;
  return (
    <>
      {run.path_visits.length
        ? describeVisits(run.path, run.path_visits)
        : describePath(run.path)}
      {run.visits > run.path.length && ` (${run.visits} visits)`}{" "}
      {run.run !== "" && (
        <Link to={{ ...graphRoute(run), node: null, run: run.run }}>on the graph</Link>
      )}
    </>
  );
}

/** The latest failed runs. */
export function FailedTable({ runs }: { runs: readonly EndedRun[] }) {
  const selected = route.value.run;
  return (
    <Table
      id="runs-failed"
      caption="Failed runs"
      columns={COLUMNS}
      rows={runs}
      rowKey={(run) => JSON.stringify([run.graph, run.run, run.time, run.node])}
      rowClass={(run) => (run.run !== "" && run.run === selected ? "selected" : "")}
      empty={
        <Empty title="No run failed in this period.">
          <p>
            A run that stopped because no edge belongs to the last node's action has not
            failed: it is counted in “Why runs ended”.
          </p>
        </Empty>
      }
    />
  );
}
