import type { RunInProgress, Trouble } from "../api/types";
import { agentTime } from "../state/live";
import { route } from "../state/route";
import { Badge, type Level } from "../ui/badge";
import { exact, formatCount, formatDuration, formatTime } from "../ui/format";
import { Link } from "../ui/link";
import { Empty } from "../ui/panel";
import { Table, type Column } from "../ui/table";
import { graphRoute, RunName } from "./name";
import { TROUBLES } from "./order";
import { describeCost, exactCost } from "./words";

const LEVELS: Record<Trouble, Level> = {
  stuck: "bad",
  looping: "bad",
  retrying: "warning",
};

const COLUMNS: Column<RunInProgress>[] = [
  { key: "run", label: "Run", cell: (run) => <RunName run={run} /> },
  {
    key: "trouble",
    label: "Trouble",
    cell: ({ trouble }) =>
      trouble.map((each) => <TroubleBadge key={each} trouble={each} />),
  },
  {
    key: "length",
    label: "Running for",
    isNumeric: true,
    value: (run) => since(run.start),
    cell: (run) => formatDuration(since(run.start)),
    title: (run) => (run.start > 0 ? `since ${formatTime(run.start)}` : undefined),
  },
  {
    key: "node",
    label: "At",
    value: (run) => run.node,
    cell: (run) => <Link to={graphRoute(run)}>{run.node}</Link>,
  },
  {
    key: "there",
    label: "There for",
    isNumeric: true,
    isMinor: true,
    value: (run) => since(run.node_start),
    cell: (run) => formatDuration(since(run.node_start)),
  },
  {
    key: "visits",
    label: "Visits",
    isNumeric: true,
    value: (run) => run.visits,
    cell: (run) => formatCount(run.visits),
    title: (run) => exact(run.visits, "node visits so far"),
  },
  {
    key: "cost",
    label: "Cost so far",
    isNumeric: true,
    value: (run) => run.cost_usd,
    cell: describeCost,
    title: exactCost,
  },
  {
    key: "process",
    label: "Process",
    isMinor: true,
    cell: (run) => `${run.host} pid ${run.pid}`,
  },
];

/** The runs in progress, in the order given. */
export function InProgressTable({ runs }: { runs: readonly RunInProgress[] }) {
  const selected = route.value.run;
  return (
    <Table
      id="runs-in-progress"
      caption="Runs in progress"
      columns={COLUMNS}
      rows={runs}
      rowKey={(run) => JSON.stringify([run.client, run.graph, run.run])}
      rowClass={(run) =>
        `${run.trouble.length ? "troubled" : ""} ${run.run === selected ? "selected" : ""}`
      }
      empty={<Empty title="No run is in progress." />}
    />
  );
}

/** The client does not always know when something has started. */
function since(start: number): number | null {
  return start > 0 ? Math.max(0, agentTime.value - start) : null;
}

function TroubleBadge({ trouble }: { trouble: Trouble }) {
  return (
    <Badge level={LEVELS[trouble]} title={TROUBLES[trouble]}>
      {trouble}
    </Badge>
  );
}
