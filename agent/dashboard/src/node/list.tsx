// The nodes to choose from, while the address names none.
import { useMemo } from "preact/hooks";
import { firingPlaces, isFiring } from "../state/firing";
import { coveredSeconds } from "../state/live";
import { useRequest } from "../state/polled";
import { route } from "../state/route";
import { StatusMark } from "../ui/badge";
import { Count } from "../ui/figure";
import {
  exact,
  formatCount,
  formatDuration,
  formatNumber,
  formatPlural,
  formatRate,
  formatShare,
} from "../ui/format";
import { Link } from "../ui/link";
import { Empty, ErrorNotice, Panel, Skeleton } from "../ui/panel";
import { Table, type Column } from "../ui/table";
import type { NodeList, NodeSummary } from "./types";

const REFRESH_SECONDS = 5;
const MAX_NODES = 200;

/** The nodes within the window, those with the highest error rate first. */
export function NodeChoice() {
  const { service, window, end } = route.value;
  const { value, error } = useRequest<NodeList>(
    "api/v1/nodes",
    { service, window, end, sort: "error_rate", limit: MAX_NODES },
    end === null ? REFRESH_SECONDS : null,
  );
  const seconds = coveredSeconds({ window, end });
  const columns = useMemo(
    () => columnsOf(window, seconds),
    [window, seconds, firingPlaces.value],
  );
  if (!value) return error ? <ErrorNotice error={error} /> : <Skeleton lines={6} />;
  const { nodes, matching } = value;
  return (
    <Panel title="Choose a node">
      {error && <ErrorNotice error={error} />}
      <Table
        id="nodes"
        caption="Nodes"
        columns={columns}
        rows={nodes}
        rowKey={({ node }) => node}
        sort="-errors"
        empty={
          <Empty title="No node has been executed yet.">
            <p>Nodes appear here with their first execution.</p>
          </Empty>
        }
      />
      {matching > nodes.length && (
        <p class="quiet">
          The {formatCount(nodes.length)} nodes with the highest error rates, of{" "}
          {formatCount(matching)}; search for others with <kbd>/</kbd>.
        </p>
      )}
    </Panel>
  );
}

/** The only one of several names; null if there is none or more. */
const single = (names: readonly string[]) =>
  names.length === 1 ? (names[0] ?? null) : null;

const placeOf = ({ services, graphs }: NodeSummary) =>
  [services, graphs]
    .map((names) => names.filter(Boolean).join(", "))
    .filter(Boolean)
    .join(" / ");

function columnsOf(window: string, seconds: number): Column<NodeSummary>[] {
  return [
    {
      key: "node",
      label: "Node",
      value: ({ node }) => node,
      cell: (row) => (
        <>
          <StatusMark level={levelOf(row)} />
          <Link
            to={{
              view: "node",
              node: row.node,
              service: single(row.services),
              graph: single(row.graphs) || null,
            }}
          >
            {row.node}
          </Link>
        </>
      ),
    },
    { key: "place", label: "Service / graph", value: placeOf, cell: placeOf },
    {
      key: "rate",
      label: "Executions",
      isNumeric: true,
      value: (row) => row.total_executions,
      cell: (row) => formatRate(row.total_executions / seconds),
      title: (row) => exact(row.total_executions, `executions in ${window}`),
    },
    {
      key: "errors",
      label: "Errors",
      isNumeric: true,
      value: (row) => row.error_rate,
      cell: (row) => (
        <span class={row.outcomes.error ? "bad" : ""}>
          {formatShare(row.error_rate)}
        </span>
      ),
      title: ({ outcomes, total_executions }) =>
        `${formatNumber(outcomes.error)} of ${formatPlural(total_executions, "execution")} failed`,
    },
    {
      key: "retries",
      label: "Retries",
      isNumeric: true,
      isMinor: true,
      value: (row) => row.total_retries,
      cell: (row) => formatCount(row.total_retries),
      title: (row) => exact(row.total_retries, `retries in ${window}`),
    },
    ...(["p50", "p95"] as const).map(latencyColumn),
  ];
}

function latencyColumn(quantile: "p50" | "p95"): Column<NodeSummary> {
  const read = (row: NodeSummary) => row[`${quantile}_execution_time`];
  return {
    key: quantile,
    label: quantile,
    isNumeric: true,
    isMinor: quantile === "p50",
    value: read,
    cell: (row) => (
      <>
        {formatDuration(read(row))}{" "}
        {read(row) !== null && <Count n={row.total_executions} />}
      </>
    ),
    title: (row) => exact(read(row), "s"),
  };
}

function levelOf({ node, services, graphs, total_executions, outcomes }: NodeSummary) {
  const places = services.flatMap((service) =>
    graphs.map((graph) => [service, graph] as const),
  );
  if (places.some(([service, graph]) => isFiring(service, graph, node))) return "bad";
  if (!total_executions) return "quiet";
  return outcomes.error ? "warning" : "good";
}
