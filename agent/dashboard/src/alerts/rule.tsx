import { useEffect, useState } from "preact/hooks";
import { send } from "../api/client";
import { formatValue } from "../charts/units";
import { useRequest } from "../state/polled";
import { Badge, type Level } from "../ui/badge";
import { exact, formatNumber, formatPlural, formatTime } from "../ui/format";
import { ErrorNotice, Panel, Skeleton } from "../ui/panel";
import { Table, type Column } from "../ui/table";
import { parseCondition, thresholdToml, valueUnit, type Condition } from "./condition";
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
  const columns = groupColumns(valueUnit(rule));
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

const STATUSES: Record<Group["status"], { level: Level; text: string; title: string }> =
  {
    breach: {
      level: "bad",
      text: "condition met",
      title: "The threshold is breached.",
    },
    band: {
      level: "warning",
      text: "not yet clear",
      title: "Between the threshold and the value at which the alert resolves.",
    },
    clear: { level: "good", text: "clear", title: "The condition is not met." },
    unknown: { level: "quiet", text: "too little data", title: "Nothing to compare." },
  };

function groupColumns(unit: string): Column<Group>[] {
  return [
    { key: "labels", label: "Group", cell: (row) => <Labels labels={row.labels} /> },
    {
      key: "status",
      label: "Status",
      cell: ({ status }) => (
        <Badge level={STATUSES[status].level}>{STATUSES[status].text}</Badge>
      ),
      title: ({ status }) => STATUSES[status].title,
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
      <Backtest
        rule={rule.rule}
        threshold={threshold === condition.threshold ? null : threshold}
      />
      <MetricChart
        rule={rule.rule}
        condition={rule.condition}
        threshold={threshold}
        labels={labels}
        unit={valueUnit(rule)}
        known={groups
          .slice(position, position + 1)
          .map((group) => ({ ...group, time: null, what: group.text }))}
      />
      <pre class="toml">{toml}</pre>
    </Panel>
  );
}

interface BacktestResult {
  start: number;
  end: number;
  evaluations: number;
  total: number;
  notifications: number;
  skipped: string;
  episodes: {
    alert: string;
    labels: Record<string, string>;
    start: number;
    end: number | null;
    value: number | null;
  }[];
}

const PERIODS = ["1h", "24h", "7d"];

/** What the rule would have done, evaluated by the agent over its store. */
function Backtest({ rule, threshold }: { rule: string; threshold: number | null }) {
  const [since, setSince] = useState("24h");
  const [result, setResult] = useState<BacktestResult | null>(null);
  const [error, setError] = useState<Error | null>(null);
  const [isRunning, setRunning] = useState(false);
  useEffect(() => setResult(null), [rule, threshold, since]);
  const run = async () => {
    setRunning(true);
    setError(null);
    try {
      const path = `api/v1/rules/${encodeURIComponent(rule)}/backtest`;
      setResult(await send<BacktestResult>("POST", path, { threshold, since }));
    } catch (reason) {
      setError(reason as Error);
    }
    setRunning(false);
  };
  return (
    <div>
      <div class="form-row">
        <label>
          Backtest over the last
          <select
            value={since}
            onChange={(event) => setSince(event.currentTarget.value)}
          >
            {PERIODS.map((period) => (
              <option key={period}>{period}</option>
            ))}
          </select>
        </label>
        <button type="button" disabled={isRunning} onClick={() => void run()}>
          {isRunning ? "Running …" : "Backtest"}
        </button>
      </div>
      {error && <ErrorNotice error={error} />}
      {result && <BacktestSummary result={result} />}
    </div>
  );
}

// The others are counted.
const MAX_EPISODES = 10;

function BacktestSummary({ result }: { result: BacktestResult }) {
  const { total, notifications, evaluations, skipped, episodes, start } = result;
  if (skipped)
    return <p role="status">It cannot be evaluated over the past: {skipped}.</p>;
  return (
    <div role="status">
      <p>
        <b>
          {total === 1
            ? "It would have fired once"
            : `It would have fired ${total} times`}
        </b>{" "}
        since {formatTime(start)}, with {formatPlural(notifications, "notification")} (
        {formatPlural(evaluations, "evaluation")}).
      </p>
      <ul>
        {episodes.slice(0, MAX_EPISODES).map((episode) => (
          <li key={`${episode.alert} ${episode.start}`}>
            {formatTime(episode.start)} to{" "}
            {episode.end === null ? "now" : formatTime(episode.end)}{" "}
            <Labels labels={episode.labels} />
          </li>
        ))}
      </ul>
      {total > MAX_EPISODES && (
        <p class="quiet">{formatNumber(total - MAX_EPISODES)} more are not listed.</p>
      )}
    </div>
  );
}
