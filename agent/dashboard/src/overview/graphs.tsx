import { useEffect, useMemo, useState } from "preact/hooks";
import { request } from "../api/client";
import type { GraphRow, QueryResult } from "../api/types";
import { firingPlaces, isFiring } from "../state/firing";
import { coveredSeconds } from "../state/live";
import { route } from "../state/route";
import { StatusMark, type Level } from "../ui/badge";
import { Count } from "../ui/figure";
import {
  exact,
  formatCount,
  formatDuration,
  formatMoney,
  formatNumber,
  formatPlural,
  formatRate,
  formatShare,
  windowSeconds,
} from "../ui/format";
import { Link } from "../ui/link";
import { Empty } from "../ui/panel";
import { Sparkline } from "../ui/sparkline";
import { Table, type Column } from "../ui/table";

const graphKey = (row: { service: string; graph: string }) =>
  JSON.stringify([row.service, row.graph]);

const MIN_SECONDS = 300;
const POINTS = 30;

/** All graphs with their figures; the alerting ones are marked. */
export function GraphTable({ rows }: { rows: readonly GraphRow[] }) {
  const { window, end } = route.value;
  const services = [...new Set(rows.map(({ service }) => service))];
  const runs = useTrends("runs", services, window, end);
  const p95 = useTrends("run_p95", services, window, end);
  const seconds = coveredSeconds({ window, end });
  const columns = useMemo(
    () => columnsOf(window, seconds, runs, p95),
    [window, seconds, firingPlaces.value, runs, p95],
  );
  return (
    <Table
      id="graphs"
      caption="Services and graphs"
      columns={columns}
      rows={rows}
      rowKey={graphKey}
      sort="graph"
      empty={<Empty title="No graph has run in this service yet." />}
    />
  );
}

function columnsOf(
  window: string,
  seconds: number,
  runs: Trends,
  p95: Trends,
): Column<GraphRow>[] {
  return [
    {
      key: "graph",
      label: "Service / graph",
      value: (row) => `${row.service} / ${row.graph}`,
      cell: (row) => (
        <>
          <StatusMark level={levelOf(row)} />
          <span class="quiet">{row.service} / </span>
          <Link to={{ view: "graph", service: row.service, graph: row.graph }}>
            {row.graph}
          </Link>
        </>
      ),
    },
    {
      key: "rate",
      label: "Runs",
      isNumeric: true,
      value: (row) => row.executions,
      cell: (row) => formatRate(row.executions / seconds),
      title: (row) => exact(row.executions, `runs in ${window}`),
    },
    {
      key: "success",
      label: "Success",
      isNumeric: true,
      value: (row) => row.success_rate,
      cell: (row) => <Share row={row} />,
      title: (row) =>
        `${formatNumber(row.outcomes.error)} of ${formatPlural(row.executions, "run")} failed`,
    },
    {
      key: "p95",
      label: "p95",
      isNumeric: true,
      value: (row) => row.p95,
      cell: (row) => (
        <>
          {formatDuration(row.p95)} {row.p95 !== null && <Count n={row.executions} />}
        </>
      ),
      title: (row) => exact(row.p95, "s"),
    },
    {
      key: "progress",
      label: "In progress",
      isNumeric: true,
      isMinor: true,
      value: (row) => row.in_progress,
      cell: (row) =>
        row.in_progress ? (
          <Link to={{ view: "runs", service: row.service, graph: row.graph }}>
            {formatCount(row.in_progress)}
          </Link>
        ) : (
          "0"
        ),
    },
    {
      key: "cost",
      label: "Cost",
      isNumeric: true,
      isMinor: true,
      value: (row) => row.cost_usd,
      cell: (row) => formatMoney(row.cost_usd),
      title: (row) => exact(row.cost_usd, "USD"),
    },
    {
      key: "trend",
      label: "Runs over time",
      isMinor: true,
      cell: (row) => <Sparkline label="Runs" points={runs.get(graphKey(row)) ?? []} />,
    },
    {
      key: "p95-trend",
      label: "p95 over time",
      isMinor: true,
      cell: (row) => <Sparkline label="p95" points={p95.get(graphKey(row)) ?? []} />,
    },
  ];
}

function Share({ row }: { row: GraphRow }) {
  const level = row.outcomes.error > 0 ? "bad" : "";
  return <span class={level}>{formatShare(row.success_rate)}</span>;
}

function levelOf(row: GraphRow): Level {
  if (isFiring(row.service, row.graph)) return "bad";
  if (row.executions === 0) return "quiet";
  return row.outcomes.error > 0 ? "warning" : "good";
}

/** The points of each graph's line. */
type Trends = ReadonlyMap<string, QueryResult["series"][number]["points"]>;

/** Requests a metric of runs over time, of all graphs of some services. */
function useTrends(
  metric: string,
  services: readonly string[],
  window: string,
  end: number | null,
) {
  const [trends, setTrends] = useState<Trends>(new Map());
  const names = [...services].sort();
  const key = JSON.stringify([names, window, end]);
  useEffect(() => {
    const stop = new AbortController();
    let timer: ReturnType<typeof setTimeout>;
    const seconds = Math.max(MIN_SECONDS, windowSeconds(window));
    // Steps are multiples of 10 s.
    const step = Math.max(10, Math.ceil(seconds / POINTS / 10) * 10);
    const range = {
      start: end === null ? `-${seconds}s` : end - seconds,
      end,
      step: `${step}s`,
    };
    const load = async () => {
      const results = await Promise.all(
        names.map(async (service) => {
          const query = { metric, by: "graph", service, ...range };
          const { series } = await request<QueryResult>("api/v1/query", query, {
            signal: stop.signal,
          });
          // The last step of a live range is not over yet.
          const last = end === null ? -1 : undefined;
          return series.map(
            ({ name, points }) =>
              [graphKey({ service, graph: name }), points.slice(0, last)] as const,
          );
        }),
      ).catch(() => null); // The table is complete without the lines.
      if (stop.signal.aborted) return;
      if (results) setTrends(new Map(results.flat()));
      if (end === null) timer = setTimeout(load, step * 1000);
    };
    void load();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [key]);
  return trends;
}
