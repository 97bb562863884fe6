import type { Episode } from "../charts/data";
import { LineChart } from "../charts/line-chart";
import { currentRange, namedSeries, useQuery } from "../charts/query";
import { ErrorNotice } from "../ui/panel";
import { hasChart, type Condition } from "./condition";

interface MetricChartProps {
  rule: string;
  condition: Condition;
  labels: Record<string, string>;
  unit: string;
  episodes?: readonly Episode[];
  note?: string;
}

/** The metric of a rule with its threshold, and episodes of an alert. */
export function MetricChart(props: MetricChartProps) {
  if (!hasChart(props.condition.metric)) {
    return (
      <p class="quiet">
        {props.condition.metric} is not stored over time, so it has no chart.
      </p>
    );
  }
  return <QueriedChart {...props} />;
}

function QueriedChart(props: MetricChartProps) {
  const { rule, condition, labels, unit, episodes = [], note } = props;
  const { service, graph, node, model } = labels;
  const scope = { service, graph, node, model };
  const { value, error } = useQuery(condition.metric, scope);
  if (error && !value) return <ErrorNotice error={error} />;
  return (
    <LineChart
      title={`${condition.metric}, threshold ${condition.operator} ${condition.threshold}`}
      subject={rule}
      series={namedSeries(value, condition.metric)}
      unit={unit}
      range={currentRange()}
      threshold={condition.threshold}
      episodes={episodes}
      isShare={unit === "ratio"}
      note={note}
    />
  );
}
