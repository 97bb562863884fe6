// The series of charts: filled from the store, and requested anew while the page is live.
import type { Heatmap, QueryResult } from "../api/types";
import { agentTime } from "../state/live";
import { useRequest, type Polled } from "../state/polled";
import { route } from "../state/route";
import { windowSeconds } from "../ui/format";
import type { Points, Series } from "./data";

export type Scope = Record<string, string | null | undefined>;

// The buckets of the store are of 10 s; the last one grows.
const SECONDS = 2;

/** Returns the range of the route as parameters of queries. */
function rangeParameters(): { start: number | string; end: number | string } {
  const { window, end } = route.value;
  if (end === null) return { start: `-${windowSeconds(window)}s`, end: "now" };
  return { start: end - windowSeconds(window), end };
}

/** Returns the range of the route in Unix seconds, now by the agent's clock. */
export function currentRange(): [number, number] {
  const { window, end } = route.value;
  const last = end ?? Math.ceil(agentTime.value);
  return [last - windowSeconds(window), last];
}

const interval = () => (route.value.end === null ? SECONDS : null);

/** Requests one metric over the period of the route. */
export function useQuery(
  metric: string,
  scope: Scope,
  by?: string,
): Polled<QueryResult> {
  return useRequest<QueryResult>(
    "api/v1/query",
    { metric, ...scope, by, ...rangeParameters() },
    interval(),
  );
}

/** Requests the heatmap of the period of the route. */
export function useHeatmap(scope: Scope): Polled<Heatmap> {
  return useRequest<Heatmap>(
    "api/v1/heatmap",
    { ...scope, ...rangeParameters() },
    interval(),
  );
}

/** Returns the series of a result; the only one of a query without `by` gets a name. */
export function namedSeries(result: QueryResult | null, name: string): Series[] {
  if (result === null) return [];
  return result.series.map((each) => ({
    name: each.name || name,
    points: completeSteps(each.points, result),
  }));
}

// The last step has only begun: its lower count would look like a decline.
function completeSteps(points: Points, { step, end }: QueryResult): Points {
  const complete = points.filter(([time]) => time + step <= end);
  return complete.some(([, value]) => value !== null) ? complete : points;
}
