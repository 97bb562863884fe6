import type { EndedRun } from "../api/types";
import { route } from "../state/route";
import { Badge } from "../ui/badge";
import { exact, formatCount, formatDuration, formatTime } from "../ui/format";
import { Link } from "../ui/link";
import { Empty } from "../ui/panel";
import { Table, type Column } from "../ui/table";
import { graphRoute, RunName } from "./name";
import { describePath, describeReason, isFailure } from "./order";

const COLUMNS: Column<EndedRun>[] = [
  { key: "run", label: "Run", cell: (run) => <RunName run={run} /> },
  {
    key: "outcome",
    label: "Outcome",
    value: outcomeOf,
    cell: (run) => (
      <Badge level={isFailure(run) ? "bad" : run.outcome === "ok" ? "good" : "warning"}>
        {outcomeOf(run)}
      </Badge>
    ),
  },
  {
    key: "time",
    label: "Ended",
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
    value: (run) => run.visits,
    cell: (run) => formatCount(run.visits),
  },
  {
    key: "end",
    label: "End",
    cell: (run) => (
      <>
        {describeReason(run.reason, run.action)} at{" "}
        <Link to={graphRoute(run)}>{run.node}</Link>
      </>
    ),
  },
  { key: "path", label: "Path", isMinor: true, cell: (run) => <Path run={run} /> },
];

function outcomeOf(run: EndedRun): string {
  return run.reason === "unmatched_action" ? "dead end" : run.outcome;
}

function Path({ run }: { run: EndedRun }) {
  if (!run.path.length) return <span class="quiet">not known</span>;
  return (
    <>
      {describePath(run.path)}{" "}
      {run.run !== "" && (
        <Link to={{ ...graphRoute(run), node: null, run: run.run }}>on the graph</Link>
      )}
    </>
  );
}

/** The latest runs that ended. */
export function EndedTable({ runs }: { runs: readonly EndedRun[] }) {
  const selected = route.value.run;
  return (
    <Table
      id="runs-ended"
      caption="Runs that ended"
      columns={COLUMNS}
      rows={runs}
      rowKey={(run) => JSON.stringify([run.graph, run.run, run.time, run.node])}
      rowClass={(run) => (run.run !== "" && run.run === selected ? "selected" : "")}
      empty={
        <Empty title="No run is known that ended in this period.">
          <p>Try a longer time range, or another graph.</p>
        </Empty>
      }
    />
  );
}
