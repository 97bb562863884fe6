import { useState } from "preact/hooks";
import { useRequest } from "../state/polled";
import { formatValue } from "../charts/units";
import { Badge, severityLevel, type Level } from "../ui/badge";
import { exact, formatNumber, formatPlural, formatTime } from "../ui/format";
import { Figure } from "../ui/figure";
import { Link } from "../ui/link";
import { Empty, ErrorNotice, Panel, Skeleton } from "../ui/panel";
import { Table, type Column } from "../ui/table";
import { valueUnit } from "./condition";
import type { KnownValue } from "./known-values";
import { Labels } from "./labels";
import { MetricChart } from "./metric-chart";
import { SilenceForm } from "./silence";
import type { Alert, AlertDetails, Message } from "./types";

/** One alert: why it fires, since when, who was notified, and a silence. */
export function AlertDetail({ id }: { id: string }) {
  const { value, error } = useRequest<AlertDetails>(
    `api/v1/alerts/${encodeURIComponent(id)}`,
    {},
    2,
  );
  const [isSilencing, setIsSilencing] = useState(false);
  if (!value) return error ? <ErrorNotice error={error} /> : <Skeleton lines={8} />;
  const { alert, episodes } = value;
  return (
    <>
      <h1>{alert.summary}</h1>
      <p>
        <Badge level={alertLevel(alert)}>{alert.state}</Badge>{" "}
        <Labels labels={alert.labels} />
        {alert.note && `, ${alert.note}`}{" "}
        {/^https?:/.test(alert.runbook_url) && (
          <a href={alert.runbook_url} rel="noreferrer">
            Runbook
          </a>
        )}
      </p>
      <Figures alert={alert} />
      <Panel title="Silence">
        {alert.silenced_by.length > 0 && <p>It is silenced.</p>}
        {isSilencing || !alert.silenced_by.length ? (
          <SilenceForm alert={alert} onDone={() => setIsSilencing(true)} />
        ) : (
          <button type="button" onClick={() => setIsSilencing(true)}>
            Silence it for longer
          </button>
        )}
      </Panel>
      <MetricChart
        rule={alert.rule}
        condition={alert.condition}
        labels={alert.labels}
        unit={valueUnit(alert)}
        known={knownValues(value)}
        episodes={episodes.map((each) => ({
          ...each,
          label: `episode ${each.number}`,
        }))}
        note="Marked: the times at which it fired. Each point is of one step; the rule evaluates its whole window."
      />
      <div class="columns">
        <Why details={value} />
        <Timeline details={value} />
      </div>
      <Notifications details={value} />
    </>
  );
}

/** Returns the present value, the worst one, and those at changes of state. */
function knownValues({ alert, timeline, worst }: AlertDetails): KnownValue[] {
  const { value, threshold, executions } = alert;
  const now = { time: null, what: alert.state, value, threshold, executions };
  const past = timeline
    .filter(({ after }) => after !== "")
    .map((entry) => ({ ...entry, what: entry.after }));
  const extreme = worst ? [{ ...worst, threshold, what: "the worst value" }] : [];
  return [now, ...[...past, ...extreme].sort((a, b) => b.time - a.time)];
}

export function alertLevel({ state, severity }: Alert): Level {
  return state === "firing" ? severityLevel(severity) : "quiet";
}

function Figures({ alert }: { alert: Alert }) {
  return (
    <dl class="figures">
      <Figure
        label="Value"
        n={alert.executions || null}
        exact={exact(alert.value, valueUnit(alert))}
      >
        {formatValue(alert.value, valueUnit(alert))}
      </Figure>
      <Figure label="Condition" note={`over ${alert.window_seconds} s`}>
        <code>{alert.condition}</code>
      </Figure>
      <Figure label="Rule">
        <Link to={{ alert: null, options: { rule: alert.rule } }}>{alert.rule}</Link>
      </Figure>
      <Figure label="Severity">{alert.severity}</Figure>
      <Figure label={alert.ended ? "Ended" : "Fired"} note={alert.reason}>
        {formatTime(alert.ended || alert.fired || null)}
      </Figure>
    </dl>
  );
}

function Why({ details }: { details: AlertDetails }) {
  const { alert, context, worst } = details;
  return (
    <Panel title="Why">
      {/* Not every value is computed from executions. */}
      {alert.executions > 0 && (
        <p>
          {formatNumber(alert.errors)} of {formatPlural(alert.executions, "execution")}{" "}
          failed within the window.
        </p>
      )}
      {worst && (
        <p>
          The worst value was {formatValue(worst.value, valueUnit(alert))} at{" "}
          {formatTime(worst.time)}
          {worst.executions > 0 && ` (n ${formatNumber(worst.executions)})`}.
        </p>
      )}
      {context?.transition && <p>The action that grew most: {context.transition}</p>}
      {context && context.error_classes.length > 0 && (
        <p>
          Errors when it fired:{" "}
          {context.error_classes.map(([type, n]) => `${type} (${n})`).join(", ")}
        </p>
      )}
      <ul class="timeline">
        {context?.evidence.map((each) => (
          <li key={`${each.run}-${each.time}`}>
            <time>{formatTime(each.time)}</time>
            <span>
              {each.node}: {each.type}: {each.message}{" "}
              {each.run && (
                <Link to={{ view: "runs", run: each.run, alert: null }}>run</Link>
              )}
            </span>
          </li>
        ))}
      </ul>
    </Panel>
  );
}

function Timeline({ details: { timeline, left_out } }: { details: AlertDetails }) {
  return (
    <Panel title="Timeline">
      {left_out > 0 && <p class="quiet">{left_out} older entries are not kept.</p>}
      <ol class="timeline">
        {timeline.map((entry, index) => (
          <li key={index}>
            <time>{formatTime(entry.time)}</time>
            <span>{entry.text}</span>
          </li>
        ))}
      </ol>
    </Panel>
  );
}

interface Delivery extends Message {
  receiver: string;
  summary: string;
}

const STATUS: Record<Message["status"], Level> = {
  sent: "good",
  pending: "warning",
  dead: "bad",
  superseded: "quiet",
};

const COLUMNS: Column<Delivery>[] = [
  {
    key: "time",
    label: "Time",
    value: (row) => row.created,
    cell: (row) => formatTime(row.created),
  },
  { key: "receiver", label: "Receiver", cell: (row) => row.receiver },
  { key: "kind", label: "Kind", cell: (row) => row.kind },
  {
    key: "status",
    label: "Status",
    cell: (row) => <Badge level={STATUS[row.status]}>{row.status}</Badge>,
  },
  {
    key: "detail",
    label: "Detail",
    isMinor: true,
    cell: (row) =>
      row.error ||
      (row.settled
        ? `at ${formatTime(row.settled)}`
        : formatPlural(row.attempts, "attempt")),
  },
];

function Notifications({ details: { receivers } }: { details: AlertDetails }) {
  const rows = receivers.flatMap(({ receiver, messages }) =>
    messages.map(({ subject, message }) => ({
      ...message,
      receiver,
      summary: subject.summary,
    })),
  );
  return (
    <Panel title="Notifications">
      {receivers.map(
        ({ receiver, suppressed }) =>
          suppressed && (
            <p key={receiver}>
              {receiver} is not notified: {suppressed.text}
            </p>
          ),
      )}
      <Table
        id="notifications"
        caption="Notifications about this alert"
        columns={COLUMNS}
        rows={rows}
        rowKey={(row) => row.id}
        sort="-time"
        empty={
          <Empty
            title={
              receivers.length
                ? "No notification was sent."
                : "None sent: no receiver is configured."
            }
          />
        }
      />
    </Panel>
  );
}
