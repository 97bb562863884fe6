import type { Episode } from "../charts/data";
import { LineChart } from "../charts/line-chart";
import { currentRange, namedSeries, useQuery } from "../charts/query";
import { ErrorNotice } from "../ui/panel";
import { parseCondition, reasonWithoutLine, type Condition } from "./condition";
import { KnownValues, type KnownValue } from "./known-values";

interface MetricChartProps {
  rule: string;
  /** The condition of the rule, such as "latency_p95 > 0.02". */
  condition: string;
  /** In place of the one in the condition. */
  threshold?: number;
  labels: Record<string, string>;
  unit: string;
  /** For a metric that is not stored over time. */
  known: readonly KnownValue[];
  episodes?: readonly Episode[];
  note?: string;
}

/** The metric of a rule with its threshold, and episodes of an alert. */
export function MetricChart(props: MetricChartProps) {
  const { condition: text, threshold, known, unit } = props;
  const reason = reasonWithoutLine(text);
  const condition = parseCondition(text);
  if (reason !== null || condition === null) {
    return (
      <KnownValues title={text} unit={unit} values={known} reason={reason ?? ""} />
    );
  }
  const shown = { ...condition, threshold: threshold ?? condition.threshold };
  return <QueriedChart {...props} shown={shown} />;
}

function QueriedChart(props: MetricChartProps & { shown: Condition }) {
  const { rule, shown, labels, unit, episodes = [], note } = props;
  const { service, graph, node, model } = labels;
  const scope = { service, graph, node, model };
  const { value, error } = useQuery(shown.metric, scope);
  if (error && !value) return <ErrorNotice error={error} />;
  return (
    <LineChart
      title={`${shown.metric}, threshold ${shown.operator} ${shown.threshold}`}
      subject={rule}
      series={namedSeries(value, shown.metric)}
      unit={unit}
      range={currentRange()}
      threshold={shown.threshold}
      episodes={episodes}
      isShare={unit === "ratio"}
      note={note}
    />
  );
}
