import { useState } from "preact/hooks";
import { formatValue } from "../charts/units";
import { namedSeries, useQuery } from "../charts/query";
import { useRequest } from "../state/polled";
import { route } from "../state/route";
import { Badge, type Level } from "../ui/badge";
import { exact, formatNumber, formatTime } from "../ui/format";
import { ErrorNotice, Panel, Skeleton } from "../ui/panel";
import { Table, type Column } from "../ui/table";
import {
  countBreaches,
  parseCondition,
  queryMetric,
  thresholdToml,
  type Condition,
} from "./episodes";
import { Labels } from "./labels";
import { MetricChart } from "./metric-chart";
import type { RuleDetails } from "./types";

type Group = RuleDetails["nearest"][number];

/** One rule: its last evaluation, the groups nearest to firing, another threshold. */
export function RuleDetail({ name }: { name: string }) {
  const { value, error } = useRequest<RuleDetails>(
    `api/v1/rules/${encodeURIComponent(name)}`,
    {},
    2,
  );
  if (!value) return error ? <ErrorNotice error={error} /> : <Skeleton lines={8} />;
  const { rule, nearest, evaluated, problem } = value;
  const condition = parseCondition(rule.condition);
  const columns = groupColumns(rule.unit);
  return (
    <>
      <h1>{rule.rule}</h1>
      <p>{rule.sentence}</p>
      <p class="quiet">Last evaluated at {formatTime(evaluated)}.</p>
      {problem && <ErrorNotice error={new Error(problem)} />}
      <Panel title="Groups nearest to firing">
        <Table
          id="groups"
          caption="Groups of the rule, by its last evaluation"
          columns={columns}
          rows={nearest}
          rowKey={(row) => row.alert}
          empty={<p class="empty">It has nothing to evaluate yet.</p>}
        />
      </Panel>
      {condition && <Trial rule={rule} condition={condition} groups={nearest} />}
    </>
  );
}

const LEVELS: Record<Group["status"], Level> = {
  breach: "bad",
  band: "warning",
  clear: "good",
  unknown: "quiet",
};

function groupColumns(unit: string): Column<Group>[] {
  return [
    { key: "labels", label: "Group", cell: (row) => <Labels labels={row.labels} /> },
    {
      key: "status",
      label: "Status",
      cell: (row) => <Badge level={LEVELS[row.status]}>{row.status}</Badge>,
    },
    {
      key: "value",
      label: "Value",
      isNumeric: true,
      value: (row) => row.value,
      cell: (row) => formatValue(row.value, unit),
      title: (row) => exact(row.value, unit),
    },
    {
      key: "n",
      label: "n",
      isNumeric: true,
      value: (row) => row.executions,
      cell: (row) => formatNumber(row.executions),
    },
    { key: "text", label: "Why", cell: (row) => row.text, isMinor: true },
  ];
}

interface TrialProps {
  rule: RuleDetails["rule"];
  condition: Condition;
  groups: readonly Group[];
}

/** Another threshold over the stored past, before it is copied into the file. */
function Trial({ rule, condition, groups }: TrialProps) {
  const [threshold, setThreshold] = useState(condition.threshold);
  const [position, setPosition] = useState(0);
  const labels = groups[position]?.labels ?? {};
  const toml = thresholdToml(rule, threshold, condition.threshold);
  return (
    <Panel title="Try another threshold">
      <div class="form-row">
        <label>
          {condition.metric} {condition.operator}
          <input
            type="number"
            step="any"
            value={threshold}
            onInput={(event) => {
              const value = event.currentTarget.valueAsNumber;
              if (Number.isFinite(value)) setThreshold(value);
            }}
          />
        </label>
        {groups.length > 1 && (
          <label>
            Group
            <select
              value={position}
              onChange={(event) => setPosition(Number(event.currentTarget.value))}
            >
              {groups.map((group, index) => (
                <option key={group.alert} value={index}>
                  {Object.values(group.labels).join(" / ") || "everything"}
                </option>
              ))}
            </select>
          </label>
        )}
        <button type="button" onClick={() => void navigator.clipboard?.writeText(toml)}>
          Copy
        </button>
      </div>
      <Breaches condition={{ ...condition, threshold }} labels={labels} />
      <MetricChart
        rule={rule.rule}
        condition={{ ...condition, threshold }}
        labels={labels}
        unit={rule.unit}
      />
      <pre class="toml">{toml}</pre>
      <p class="quiet">
        With this in a file, <code>kaywatch rules backtest --config FILE</code> shows
        the alerts and the messages that it would have caused.
      </p>
    </Panel>
  );
}

function Breaches(props: { condition: Condition; labels: Record<string, string> }) {
  const metric = queryMetric(props.condition.metric);
  return metric ? <BreachCount {...props} metric={metric} /> : null;
}

function BreachCount(props: {
  condition: Condition;
  labels: Record<string, string>;
  metric: string;
}) {
  const { condition, metric } = props;
  const { service, graph, node } = props.labels;
  const { value } = useQuery(metric, { service, graph, node });
  const points = namedSeries(value, metric)[0]?.points ?? [];
  const { operator, threshold } = condition;
  const { breached, known } = countBreaches(points, operator, threshold);
  return (
    <p role="status">
      {formatNumber(breached)} of {formatNumber(known)} steps of {value?.step ?? "–"} s
      within {route.value.window} are {operator} {threshold}.
    </p>
  );
}
