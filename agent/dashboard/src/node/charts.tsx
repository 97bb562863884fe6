import type { ComponentChildren } from "preact";
import type { QueryResult } from "../api/types";
import { HeatmapChart } from "../charts/heatmap-chart";
import { LineChart } from "../charts/line-chart";
import { seenSeries } from "../charts/data";
import { currentRange, namedSeries, useHeatmap, useQuery } from "../charts/query";
import type { Polled } from "../state/polled";
import { route } from "../state/route";
import { ErrorNotice, Panel, Skeleton } from "../ui/panel";

// More lines than these cannot be told apart; the table below the chart has all.
const MAX_LINES = 6;

/** The charts of the node that the address names. */
export function NodeCharts({ node }: { node: string }) {
  const { service, graph } = route.value;
  const scope = { service, graph, node };
  const p50 = useQuery("p50", scope);
  const p95 = useQuery("p95", scope);
  const p99 = useQuery("p99", scope);
  const errors = useQuery("error_rate", scope);
  const retries = useQuery("retry_rate", scope);
  const heatmap = useHeatmap(scope);
  return (
    <div class="charts">
      <Breakdown
        title="Executions by outcome"
        subject={node}
        scope={scope}
        by="outcome"
      />
      <Lines title="Duration" subject={node} unit="seconds" lines={{ p50, p95, p99 }} />
      <Loaded title="Latency heatmap" results={[heatmap]}>
        {heatmap.value && <HeatmapChart subject={node} heatmap={heatmap.value} />}
      </Loaded>
      <Lines
        title="Errors and retries"
        subject={node}
        unit="ratio"
        lines={{ "error rate": errors, "retry rate": retries }}
        none="No attempt failed in this period."
      />
      <Breakdown title="Actions" subject={node} scope={scope} by="action" />
      <Breakdown title="Errors by type" subject={node} scope={scope} by="error" />
    </div>
  );
}

interface LinesProps {
  title: string;
  subject: string;
  unit: string;
  lines: Record<string, Polled<QueryResult>>;
  none?: string;
}

// The other units are of values that do not depend on the length of a step.
const SUMS = new Set(["executions", "calls", "usd"]);

/** Metrics over time, by the name of their line. */
export function Lines({ title, subject, unit, lines, none }: LinesProps) {
  const [first] = Object.values(lines);
  return (
    <Loaded title={title} results={Object.values(lines)}>
      <LineChart
        title={title}
        subject={subject}
        unit={unit}
        range={currentRange()}
        none={none}
        step={SUMS.has(unit) ? first?.value?.step : undefined}
        series={Object.entries(lines).flatMap(([name, { value }]) =>
          namedSeries(value, name),
        )}
      />
    </Loaded>
  );
}

interface BreakdownProps {
  title: string;
  subject: string;
  scope: Record<string, string | null>;
  by: string;
  metric?: string;
  unit?: string;
}

/** A metric divided by one dimension, as areas on top of each other. */
export function Breakdown(props: BreakdownProps) {
  const {
    title,
    subject,
    scope,
    by,
    metric = "executions",
    unit = "executions",
  } = props;
  const result = useQuery(metric, scope, by);
  const series = seenSeries(namedSeries(result.value, "(none)"));
  const left = Math.max(0, series.length - MAX_LINES) + (result.value?.left_out ?? 0);
  return (
    <Loaded title={title} results={[result]}>
      <LineChart
        title={title}
        subject={subject}
        unit={unit}
        range={currentRange()}
        step={result.value?.step}
        isStacked
        series={series.slice(0, MAX_LINES)}
        note={left ? `${left} more with fewer events are not drawn.` : undefined}
      />
    </Loaded>
  );
}

/** Its content once all results are there: a placeholder or an error before. */
function Loaded({
  title,
  results,
  children,
}: {
  title: string;
  results: readonly Polled<unknown>[];
  children: ComponentChildren;
}) {
  if (results.every(({ value }) => value !== null)) return <>{children}</>;
  const error = results.find((result) => result.error)?.error;
  return (
    <Panel title={title}>
      {error ? <ErrorNotice error={error} /> : <Skeleton lines={6} />}
    </Panel>
  );
}
