import { computed } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";
import type { GraphRow } from "../api/types";
import { Changes } from "../overview/changes";
import { GraphTable } from "../overview/graphs";
import { Problems } from "../overview/problems";
import { loadGraphs, sumRows } from "../overview/rows";
import { FirstSteps } from "../overview/steps";
import { coveredSeconds, live, streamWindow } from "../state/live";
import { route } from "../state/route";
import { Badge, type Level } from "../ui/badge";
import { Figure } from "../ui/figure";
import {
  exact,
  formatBytes,
  formatCount,
  formatMoney,
  formatPlural,
  formatRate,
  formatShare,
} from "../ui/format";
import { Link } from "../ui/link";
import { ErrorNotice, Panel, Skeleton } from "../ui/panel";

const content = computed(() => {
  if (!live.value) return "unknown";
  return live.value.nodes.length || live.value.graphs.length ? "figures" : "nothing";
});

/** Problems, figures, services and graphs, and what changed. */
export function OverviewView() {
  const { service, end } = route.value;
  if (content.value === "unknown") return <Skeleton lines={8} />;
  if (content.value === "nothing") return <FirstSteps />;
  return (
    <div class="overview">
      <h1>{service ?? "Overview"}</h1>
      {end === null && <Problems service={service} />}
      <GraphFigures />
      <Panel title="Changed within the last hour">
        <Changes service={service} />
      </Panel>
    </div>
  );
}

// What changes each second; the panels around it do not.
function GraphFigures() {
  const { service } = route.value;
  const { rows: all, error } = useRows();
  const rows = all?.filter((row) => service === null || row.service === service);
  return (
    <>
      {error && <ErrorNotice error={error} />}
      <Summary rows={rows ?? []} />
      <Panel title="Services and graphs" class="wide">
        {rows ? <GraphTable rows={rows} /> : <Skeleton lines={6} />}
      </Panel>
    </>
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
  const { window, service } = route.value;
  const sums = sumRows(rows);
  const known = live.value;
  if (!known) return null;
  const { health, agent, completeness, processes } = known;
  const connected = processes.connected ?? 0;
  const inProgress = service === null ? known.runs_in_progress : sums.in_progress;
  const cpu = agent.cpu_percent;
  const store = agent.store_bytes
    ? `store ${formatBytes(agent.store_bytes)}`
    : "no store";
  return (
    <dl class="figures">
      <Figure label="Monitoring" note={`kaywatch ${known.version}`}>
        <Badge level={healthLevel(health.status)}>agent {health.status}</Badge>
      </Figure>
      <Figure
        label={`Runs, ${window}`}
        exact={formatPlural(sums.runs, "run")}
        note={formatRate(sums.runs / coveredSeconds(route.value))}
      >
        {formatCount(sums.runs)}
      </Figure>
      <Figure
        label="Success"
        n={sums.runs}
        exact={`${formatPlural(sums.failed, "run")} failed`}
      >
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
      <Figure label="In progress" exact={formatPlural(inProgress, "run")}>
        <Link to={{ view: "runs" }}>{formatCount(inProgress)}</Link>
      </Figure>
      {service === null && (
        <Figure label="Processes" note={processNote(processes)}>
          <Link to={{ view: "processes" }}>{formatCount(connected)}</Link>
        </Figure>
      )}
      <Figure
        label="Completeness"
        exact={`${formatPlural(completeness.dropped, "event")} lost in ${known.window}`}
      >
        {formatShare(completeness.ratio)}
      </Figure>
      <Figure
        label="Overhead"
        exact={`${formatBytes(agent.memory_bytes)} of memory, ${store}`}
        note={cpu === null ? store : `${cpu} % CPU`}
      >
        {formatBytes(agent.memory_bytes)}
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

function healthLevel(status: string): Level {
  if (status === "healthy") return "good";
  return status === "unhealthy" ? "bad" : "warning";
}
