import { useEffect, useState } from "preact/hooks";
import type { AlertRow, GraphRow } from "../api/types";
import { Changes } from "../overview/changes";
import { GraphTable, graphKey } from "../overview/graphs";
import { loadGraphs, sumRows } from "../overview/rows";
import { FirstSteps } from "../overview/steps";
import { agentTime, live, streamWindow } from "../state/live";
import { route } from "../state/route";
import { Badge, severityLevel, type Level } from "../ui/badge";
import { Figure } from "../ui/figure";
import {
  exact,
  formatAge,
  formatBytes,
  formatCount,
  formatMoney,
  formatRate,
  formatShare,
  formatTime,
  windowSeconds,
} from "../ui/format";
import { Link } from "../ui/link";
import { Empty, ErrorNotice, Panel, Skeleton } from "../ui/panel";

/** Health, alerts, services and graphs, what changed, processes, and the agent. */
export function OverviewView() {
  const { service } = route.value;
  const known = live.value;
  const { rows: all, error } = useRows();
  if (!known) return <Skeleton lines={8} />;
  if (!known.nodes.length && !known.graphs.length) return <FirstSteps />;
  const isOwn = (row: { service: string }) =>
    service === null || row.service === service;
  const rows = all?.filter(isOwn) ?? null;
  const alerts = known.alerts.filter(
    ({ labels }) => service === null || (labels.service ?? service) === service,
  );
  return (
    <div class="overview">
      <h1>{service ?? "Overview"}</h1>
      {error && <ErrorNotice error={error} />}
      <Summary rows={rows ?? []} />
      <div class="columns">
        <Panel
          title="Alerts"
          actions={<Link to={{ view: "alerts" }}>All alerts and rules</Link>}
        >
          <Alerts alerts={alerts} active={known.alerts_active} />
        </Panel>
        <Panel title="Changed within the last hour">
          <Changes service={service} />
        </Panel>
      </div>
      <Panel title="Services and graphs" class="wide">
        {rows ? (
          <GraphTable rows={rows} firing={firingGraphs(known.alerts, known.graphs)} />
        ) : (
          <Skeleton lines={6} />
        )}
      </Panel>
    </div>
  );
}

/** Returns the rows of the period: of the stream if it has them. */
function useRows(): { rows: readonly GraphRow[] | null; error: Error | null } {
  const { window, end } = route.value;
  const isStreamed = end === null && streamWindow.value === window;
  const services = [...new Set(live.value?.graphs.map((row) => row.service))].sort();
  const [loaded, setLoaded] = useState<{ key: string; rows: GraphRow[] } | null>(null);
  const [error, setError] = useState<Error | null>(null);
  const key = JSON.stringify([window, end, services]);
  useEffect(() => {
    setError(null);
    if (isStreamed || !services.length) return;
    const stop = new AbortController();
    loadGraphs(services, window, end, stop.signal)
      .then((rows) => setLoaded({ key, rows }))
      .catch((reason: Error) => stop.signal.aborted || setError(reason));
    return () => stop.abort();
  }, [key, isStreamed]);
  if (isStreamed) {
    const isSame = live.value?.window === window;
    return { rows: isSame ? (live.value?.graphs ?? null) : null, error: null };
  }
  return { rows: loaded?.key === key ? loaded.rows : null, error };
}

function Summary({ rows }: { rows: readonly GraphRow[] }) {
  const { window } = route.value;
  const sums = sumRows(rows);
  const known = live.value;
  if (!known) return null;
  const { health, agent, completeness, processes } = known;
  const connected = processes.connected ?? 0;
  const cpu = agent.cpu_percent;
  return (
    <dl class="figures">
      <Figure label="Agent" note={`version ${known.version}`}>
        <Badge level={healthLevel(health.status)}>{health.status}</Badge>
      </Figure>
      <Figure
        label={`Runs, ${window}`}
        exact={exact(sums.runs, "runs")}
        note={formatRate(sums.runs / windowSeconds(window))}
      >
        {formatCount(sums.runs)}
      </Figure>
      <Figure label="Success" n={sums.runs} exact={`${sums.failed} runs failed`}>
        {formatShare(sums.success_rate)}
      </Figure>
      <Figure
        label="Cost"
        exact={exact(sums.cost_usd, "USD")}
        note={
          sums.wasted_cost_usd ? `${formatMoney(sums.wasted_cost_usd)} wasted` : null
        }
      >
        {formatMoney(sums.cost_usd)}
      </Figure>
      <Figure label="In progress" exact={exact(known.runs_in_progress, "runs")}>
        <Link to={{ view: "runs" }}>{formatCount(known.runs_in_progress)}</Link>
      </Figure>
      <Figure label="Processes" note={processNote(processes)}>
        <Link to={{ view: "processes" }}>{formatCount(connected)}</Link>
      </Figure>
      <Figure
        label="Completeness"
        exact={`${completeness.dropped} events lost in ${known.window}`}
      >
        {formatShare(completeness.ratio)}
      </Figure>
      <Figure
        label="Agent's own cost"
        exact={exact(agent.memory_bytes, "bytes of memory")}
        note={`${formatBytes(agent.memory_bytes)}, store ${formatBytes(agent.store_bytes)}`}
      >
        {cpu === null ? "–" : `${cpu} % CPU`}
      </Figure>
    </dl>
  );
}

function processNote(processes: Record<string, number>): string | null {
  const others = Object.entries(processes).filter(
    ([state, count]) => state !== "connected" && count > 0,
  );
  return others.map(([state, count]) => `${count} ${state}`).join(", ") || null;
}

function Alerts({ alerts, active }: { alerts: readonly AlertRow[]; active: number }) {
  if (!alerts.length) return <Empty title="No alert is active." />;
  return (
    <ul class="alert-list">
      {alerts.slice(0, 8).map((alert) => (
        <li key={alert.id}>
          <Badge level={alertLevel(alert)}>
            {alert.state === "firing" ? alert.severity : alert.state}
          </Badge>
          <span>
            <Link to={{ view: "alerts", alert: alert.id }}>{alert.summary}</Link>{" "}
            <span class="quiet">{alert.rule}</span>
          </span>
          <time title={formatTime(alert.since)}>
            {formatAge(alert.since, agentTime.value)}
          </time>
        </li>
      ))}
      {active > 8 && (
        <li>
          <Link to={{ view: "alerts" }}>{active - 8} more</Link>
        </li>
      )}
    </ul>
  );
}

const alertLevel = ({ state, severity }: AlertRow): Level =>
  state === "firing" ? severityLevel(severity) : "quiet";

function healthLevel(status: string): Level {
  if (status === "healthy") return "good";
  return status === "unhealthy" ? "bad" : "warning";
}

function firingGraphs(
  alerts: readonly AlertRow[],
  graphs: readonly GraphRow[],
): Set<string> {
  const keys = new Set<string>();
  for (const { state, labels } of alerts) {
    if (state !== "firing") continue;
    for (const row of graphs) {
      const isAffected =
        labels.graph === row.graph && (labels.service ?? row.service) === row.service;
      if (isAffected) keys.add(graphKey(row));
    }
  }
  return keys;
}
