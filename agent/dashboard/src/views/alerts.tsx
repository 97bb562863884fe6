import { valueUnit } from "../alerts/condition";
import { AlertDetail, alertLevel } from "../alerts/detail";
import { Labels } from "../alerts/labels";
import { RuleDetail } from "../alerts/rule";
import { EpisodeTimeline } from "../alerts/timeline";
import { Silences } from "../alerts/silence";
import type { Alert, Rule } from "../alerts/types";
import { formatValue } from "../charts/units";
import { agentTime } from "../state/live";
import { useRequest } from "../state/polled";
import { route } from "../state/route";
import { Badge } from "../ui/badge";
import { exact, formatAge, formatCount, formatTime } from "../ui/format";
import { Link } from "../ui/link";
import { Empty, ErrorNotice, Panel, Skeleton } from "../ui/panel";
import { Table, type Column } from "../ui/table";

/** Current and past alerts, silences and rules; or one alert, or one rule. */
export function AlertsView() {
  const { alert, options } = route.value;
  const all = { alert: null, options: {} };
  if (alert === null && !options.rule) return <AlertList />;
  return (
    <div>
      <p>
        <Link to={all}>All alerts and rules</Link>
      </p>
      {alert !== null ? (
        <AlertDetail key={alert} id={alert} />
      ) : (
        <RuleDetail key={options.rule} name={options.rule ?? ""} />
      )}
    </div>
  );
}

function AlertList() {
  const { service } = route.value;
  const { value, error } = useRequest<{ alerts: Alert[]; matching: number }>(
    "api/v1/alerts",
    { service },
    2,
  );
  if (!value) return error ? <ErrorNotice error={error} /> : <Skeleton lines={8} />;
  const active = value.alerts.filter(({ state }) => state !== "ok");
  const ended = value.alerts.filter(({ state }) => state === "ok");
  return (
    <div>
      <h1>Alerts{service === null ? "" : ` of ${service}`}</h1>
      {error && <ErrorNotice error={error} />}
      <Panel title="Active">
        <Table
          id="alerts"
          caption="Active alerts"
          columns={ALERT_COLUMNS}
          rows={active}
          rowKey={(row) => row.id}
          empty={<Empty title="No alert is active." />}
        />
      </Panel>
      <EpisodeTimeline service={service} />
      <Silences />
      {ended.length > 0 && (
        <Panel title="Resolved within a day">
          <Table
            id="ended"
            caption="Alerts that resolved within a day"
            columns={ALERT_COLUMNS}
            rows={ended}
            rowKey={(row) => row.id}
            sort="-since"
          />
        </Panel>
      )}
      <Rules />
    </div>
  );
}

const ALERT_COLUMNS: Column<Alert>[] = [
  {
    key: "state",
    label: "State",
    cell: (row) => (
      <Badge level={alertLevel(row)}>
        {row.state === "firing" ? row.severity : row.state}
      </Badge>
    ),
  },
  {
    key: "summary",
    label: "Summary",
    isSentence: true,
    cell: (row) => <Link to={{ alert: row.id }}>{row.summary}</Link>,
  },
  {
    key: "rule",
    label: "Rule",
    isMinor: true,
    value: (row) => row.rule,
    cell: (row) => row.rule,
  },
  {
    key: "labels",
    label: "Where",
    isMinor: true,
    cell: (row) => <Labels labels={row.labels} />,
  },
  {
    key: "value",
    label: "Value",
    isNumeric: true,
    isMinor: true,
    cell: (row) => formatValue(row.value, valueUnit(row)),
    title: (row) => exact(row.value, valueUnit(row)),
  },
  {
    key: "n",
    label: "n",
    isNumeric: true,
    isMinor: true,
    // Not every value is computed from executions: a stuck run is a single one.
    cell: (row) => formatCount(row.executions || null),
  },
  {
    key: "since",
    label: "Since",
    value: (row) => row.since,
    cell: (row) => formatAge(row.since, agentTime.value),
    title: (row) => formatTime(row.since),
  },
  {
    key: "notified",
    label: "Notifications",
    isMinor: true,
    cell: notificationText,
  },
];

function notificationText(row: Alert): string {
  if (row.silenced_by.length) return "silenced";
  const suppressed = Object.values(row.suppressed);
  if (suppressed.length) return suppressed.join(", ");
  if (!row.receivers.length) return "no receiver is configured";
  return Object.keys(row.notified).length ? "notified" : "none yet";
}

const RULE_COLUMNS: Column<Rule>[] = [
  {
    key: "rule",
    label: "Rule",
    value: (row) => row.rule,
    cell: (row) => <Link to={{ options: { rule: row.rule } }}>{row.rule}</Link>,
  },
  {
    key: "condition",
    label: "Condition",
    isSentence: true,
    cell: (row) => <code>{row.condition}</code>,
  },
  {
    key: "severity",
    label: "Severity",
    isMinor: true,
    value: (row) => row.severity,
    cell: (row) => row.severity,
  },
  {
    key: "firing",
    label: "Firing",
    isNumeric: true,
    value: (row) => row.states.firing ?? 0,
    cell: (row) => formatCount(row.states.firing ?? 0),
  },
  {
    key: "groups",
    label: "Groups",
    isNumeric: true,
    isMinor: true,
    value: (row) => row.groups,
    cell: (row) => formatCount(row.groups),
  },
];

interface RuleList {
  evaluated: number;
  problem: string;
  warnings: string[];
  rules: Rule[];
}

function Rules() {
  const { value, error } = useRequest<RuleList>("api/v1/rules");
  if (!value) return error ? <ErrorNotice error={error} /> : <Skeleton />;
  return (
    <Panel
      title="Rules"
      actions={<span class="quiet">evaluated at {formatTime(value.evaluated)}</span>}
    >
      {value.problem && <ErrorNotice error={new Error(value.problem)} />}
      {value.warnings.map((warning) => (
        <p key={warning}>{warning}</p>
      ))}
      <Table
        id="rules"
        caption="Rules"
        columns={RULE_COLUMNS}
        rows={value.rules}
        rowKey={(row) => row.rule}
        sort="rule"
      />
    </Panel>
  );
}
