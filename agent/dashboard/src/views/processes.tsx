import { agentTime } from "../state/live";
import { useRequest } from "../state/polled";
import { route } from "../state/route";
import { Badge, type Level } from "../ui/badge";
import { Figure } from "../ui/figure";
import {
  exact,
  formatAge,
  formatBytes,
  formatCount,
  formatShare,
  formatTime,
  NONE,
} from "../ui/format";
import { Empty, ErrorNotice, Panel, Skeleton } from "../ui/panel";
import { Table, type Column } from "../ui/table";

/** One process of GET /api/v1/clients, as far as it is shown. */
interface Process {
  client: string;
  service: string;
  host: string;
  pid: number;
  start: number;
  sdk: string;
  tags: Record<string, string>;
  via: string;
  state: "connected" | "disconnected" | "ended" | "died";
  since: number;
  last_seen: number;
  events: number;
  recorded: number;
  dropped: Record<string, number>;
  rejected: Record<string, number>;
  completeness: number | null;
  missing: number;
  memory_mb: number | null;
  peak_memory_mb: number | null;
  cpu_percent: number | null;
  in_flight: { graph: string; node: string }[];
}

const LEVELS: Record<Process["state"], Level> = {
  connected: "good",
  disconnected: "warning",
  ended: "quiet",
  died: "bad",
};
const MIB = 1024 * 1024;

/** Processes that send, and processes that left within the hour. */
export function ProcessesView() {
  const { service } = route.value;
  const { value, error } = useRequest<{ socket: string; clients: Process[] }>(
    "api/v1/clients",
    { service },
    2,
  );
  if (!value) return error ? <ErrorNotice error={error} /> : <Skeleton lines={8} />;
  const { clients } = value;
  return (
    <div>
      <h1>Processes{service === null ? "" : ` of ${service}`}</h1>
      {error && <ErrorNotice error={error} />}
      {clients.length > 0 && <Summary processes={clients} />}
      <Panel title="Processes" class="wide">
        <Table
          id="processes"
          caption="Processes that send, and processes that left within the hour"
          columns={COLUMNS}
          rows={clients}
          rowKey={(row) => row.client}
          sort="service"
          rowClass={(row) => (row.state === "died" ? "troubled" : "")}
          empty={
            <Empty title="No process sends data.">
              <p>
                Start one with <code>kaywatch run -- python app.py</code>, or call{" "}
                <code>kaywatch.instrument()</code> in it
                {value.socket && (
                  <>
                    . The agent reads <code>{value.socket}</code>
                  </>
                )}
                . If one runs already, <code>kaywatch doctor</code> finds out why it
                does not arrive.
              </p>
            </Empty>
          }
        />
      </Panel>
    </div>
  );
}

function Summary({ processes }: { processes: readonly Process[] }) {
  const count = (state: Process["state"]) =>
    processes.filter((each) => each.state === state).length;
  const sum = (value: (each: Process) => number) =>
    processes.reduce((total, each) => total + value(each), 0);
  const connected = processes.filter(({ state }) => state === "connected");
  const known = connected.flatMap(({ memory_mb }) => memory_mb ?? []);
  const memory = known.length
    ? known.reduce((total, each) => total + each) * MIB
    : null;
  return (
    <dl class="figures">
      <Figure
        label="Connected"
        note={connected.length ? hostText(connected) : lastText(processes)}
      >
        {connected.length ? formatCount(connected.length) : "none"}
      </Figure>
      <Figure label="Disconnected">{formatCount(count("disconnected"))}</Figure>
      <Figure label="Died within the hour">
        <span class={count("died") ? "bad" : ""}>{formatCount(count("died"))}</span>
      </Figure>
      <Figure label="Memory" exact={exact(memory, "bytes")}>
        {formatBytes(memory)}
      </Figure>
      <Figure label="Events arrived" exact={exact(sum((each) => each.events))}>
        {formatCount(sum((each) => each.events))}
      </Figure>
      <Figure label="Events lost" exact={lossText(processes)}>
        {formatCount(sum(lostEvents))}
      </Figure>
    </dl>
  );
}

function hostText(processes: readonly Process[]): string {
  const hosts = new Set(processes.map(({ host }) => host)).size;
  return hosts === 1 ? "on one host" : `on ${formatCount(hosts)} hosts`;
}

/** What became of the process that was connected last. */
function lastText(processes: readonly Process[]): string {
  const last = processes.reduce((one, other) =>
    other.since > one.since ? other : one,
  );
  const verb = last.state === "disconnected" ? "is disconnected" : last.state;
  return `the last one ${verb} ${formatAge(last.since, agentTime.value)}`;
}

const COLUMNS: readonly Column<Process>[] = [
  {
    key: "service",
    label: "Service",
    value: (row) => `${row.service} ${row.host} ${String(row.pid).padStart(10)}`,
    cell: (row) => row.service,
  },
  {
    key: "state",
    label: "State",
    value: (row) => row.state,
    cell: (row) => (
      <>
        <Badge level={LEVELS[row.state]}>{row.state}</Badge>
        {row.state === "died" && lastWork(row)}
      </>
    ),
    title: (row) => `since ${formatTime(row.since)}`,
  },
  {
    key: "pid",
    label: "Process",
    value: (row) => row.pid,
    cell: (row) => (
      <>
        {row.pid} <span class="quiet">{row.host || "this host"}</span>
      </>
    ),
    title: (row) => tagText(row.tags),
  },
  {
    key: "version",
    label: "Client",
    isMinor: true,
    value: (row) => row.sdk,
    cell: (row) => row.sdk || NONE,
    title: (row) => (row.via ? `by way of ${row.via}` : "by a socket on this host"),
  },
  {
    key: "start",
    label: "Started",
    isMinor: true,
    isNumeric: true,
    value: (row) => row.start || null,
    cell: (row) => (row.start ? formatAge(row.start, agentTime.value) : NONE),
    title: (row) => (row.start ? formatTime(row.start) : undefined),
  },
  {
    key: "memory",
    label: "Memory",
    isNumeric: true,
    value: (row) => row.memory_mb,
    cell: (row) => formatBytes(row.memory_mb === null ? null : row.memory_mb * MIB),
    title: (row) =>
      row.peak_memory_mb === null
        ? undefined
        : `at most ${formatBytes(row.peak_memory_mb * MIB)}`,
  },
  {
    key: "cpu",
    label: "CPU",
    isNumeric: true,
    isMinor: true,
    value: (row) => row.cpu_percent,
    cell: (row) =>
      row.cpu_percent === null ? NONE : `${row.cpu_percent.toFixed(1)} %`,
    title: () => "percent of one core",
  },
  {
    key: "events",
    label: "Events",
    isNumeric: true,
    isMinor: true,
    value: (row) => row.events,
    cell: (row) => formatCount(row.events),
    title: (row) => `${row.events} of ${row.recorded} recorded events arrived`,
  },
  {
    key: "complete",
    label: "Complete",
    isNumeric: true,
    value: (row) => row.completeness,
    cell: (row) => (
      <span class={lostEvents(row) ? "bad" : ""}>{formatShare(row.completeness)}</span>
    ),
    title: (row) => lossText([row]),
  },
  {
    key: "seen",
    label: "Last seen",
    isNumeric: true,
    value: (row) => row.last_seen,
    cell: (row) => formatAge(row.last_seen, agentTime.value),
    title: (row) => formatTime(row.last_seen),
  },
];

/** What a process was doing when it died. */
function lastWork({ in_flight }: Process): string {
  const places = in_flight.map(({ graph, node }) => [graph, node].filter(Boolean));
  const names = [...new Set(places.map((place) => place.join(" / ")))];
  return names.length ? ` while running ${names.join(", ")}` : "";
}

const total = (counts: Record<string, number>) =>
  Object.values(counts).reduce((sum, each) => sum + each, 0);

const lostEvents = (row: Process) => total(row.dropped) + total(row.rejected);

function lossText(processes: readonly Process[]): string {
  const reasons: Record<string, number> = {};
  for (const { dropped, rejected } of processes) {
    for (const [reason, count] of [
      ...Object.entries(dropped),
      ...Object.entries(rejected),
    ]) {
      reasons[reason] = (reasons[reason] ?? 0) + count;
    }
  }
  const parts = Object.entries(reasons).filter(([, count]) => count > 0);
  if (!parts.length) return "nothing was lost";
  return parts.map(([reason, count]) => `${count} ${reason}`).join(", ");
}

function tagText(tags: Record<string, string>): string | undefined {
  const parts = Object.entries(tags).map(([name, value]) => `${name}=${value}`);
  return parts.join(", ") || undefined;
}
