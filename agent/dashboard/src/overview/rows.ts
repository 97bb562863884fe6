// What the table of graphs shows: rows of the event stream, or of a request for a period
// that the stream does not have.
import { request } from "../api/client";
import type { GraphRow, Outcomes } from "../api/types";

interface GraphSummary {
  graph: string;
  total_executions: number;
  success_rate: number | null;
  avg_execution_time: number | null;
  total_time: number | null;
  p50_execution_time: number | null;
  p95_execution_time: number | null;
  p99_execution_time: number | null;
  outcomes: Outcomes;
  visits: number;
  cost_usd: number | null;
  wasted_cost_usd: number | null;
}

/** Requests the graphs of some services in a period. */
export async function loadGraphs(
  services: readonly string[],
  window: string,
  end: number | null,
  stop: AbortSignal,
): Promise<GraphRow[]> {
  const lists = await Promise.all(
    services.map(async (service) => {
      const query = { service, window, end };
      const answer = await request<{ graphs: GraphSummary[] }>("api/v1/graphs", query, {
        signal: stop,
      });
      return answer.graphs.map((summary) => graphRow(service, summary));
    }),
  );
  return lists.flat();
}

function graphRow(service: string, summary: GraphSummary): GraphRow {
  return {
    service,
    graph: summary.graph,
    executions: summary.total_executions,
    outcomes: summary.outcomes,
    success_rate: summary.success_rate,
    avg: summary.avg_execution_time,
    p50: summary.p50_execution_time,
    p95: summary.p95_execution_time,
    p99: summary.p99_execution_time,
    seconds: summary.total_time ?? 0,
    visits: summary.visits,
    retries: 0,
    last_execution: null,
    cost_usd: summary.cost_usd,
    wasted_cost_usd: summary.wasted_cost_usd,
    tokens: null,
    dead_ends: 0,
    never_reached: 0,
    in_progress: 0,
  };
}

/** The sums of a period over several graphs; the p95 of several graphs is unknown. */
export function sumRows(rows: readonly GraphRow[]) {
  const sum = (value: (row: GraphRow) => number) =>
    rows.reduce((total, row) => total + value(row), 0);
  const runs = sum((row) => row.executions);
  const finished = runs - sum((row) => row.outcomes.cancelled);
  const costs = rows.filter((row) => row.cost_usd !== null);
  return {
    runs,
    failed: sum((row) => row.outcomes.error),
    success_rate: finished ? 1 - sum((row) => row.outcomes.error) / finished : null,
    in_progress: sum((row) => row.in_progress),
    cost_usd: costs.length ? sum((row) => row.cost_usd ?? 0) : null,
    wasted_cost_usd: costs.length ? sum((row) => row.wasted_cost_usd ?? 0) : null,
  };
}
