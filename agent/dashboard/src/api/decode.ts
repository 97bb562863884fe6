// Turns the events of /api/v1/live into `Live`. Rows that an event does not change stay
// the same objects, so that a view can skip them.

import type {
  AlertRow,
  Figures,
  GraphRow,
  Live,
  NodeRow,
  Outcomes,
  RunInProgress,
} from "./types";

interface ColumnChange {
  rows: number[] | null;
  values: (number | null)[];
}
interface TableChange {
  keys: string[][];
  columns: Record<string, ColumnChange>;
}
interface ListChange<T> {
  active: number;
  order: string[];
  changed: T[];
}

/** The data of an event; null for what it does not change. */
export interface LiveUpdate {
  time: number;
  since: number | null;
  version: string | null;
  window: string | null;
  health: Live["health"] | null;
  completeness: Live["completeness"] | null;
  agent: Live["agent"] | null;
  processes: Record<string, number> | null;
  nodes: TableChange;
  graphs: TableChange;
  runs: ListChange<RunInProgress> | null;
  alerts: ListChange<AlertRow> | null;
}

interface Table<T> {
  keys: string[][];
  columns: Record<string, (number | null)[]>;
  rows: T[];
}

/** What is known after an event; `live` is for views, the rest for the next event. */
export interface LiveState {
  live: Live;
  nodes: Table<NodeRow>;
  graphs: Table<GraphRow>;
}

/** Columns that are sent as new values; the others as differences. */
const VALUES = new Set(["seconds", "cost", "wasted", "p50", "p95", "p99"]);

const EMPTY = { keys: [], columns: {}, rows: [] };

/** Returns the state after an event; `full` starts anew, `changes` needs a state. */
export function decode(
  state: LiveState | null,
  event: string,
  update: LiveUpdate,
): LiveState | null {
  const before = event === "full" ? null : state;
  if (event !== "full" && before === null) return null;
  const nodes = applyTable(before?.nodes ?? EMPTY, update.nodes, nodeRow);
  const graphs = applyTable(before?.graphs ?? EMPTY, update.graphs, graphRow);
  return { nodes, graphs, live: liveOf(before?.live, update, nodes.rows, graphs.rows) };
}

/** Identifies a run among all runs, as in the order of an update. */
export function runKey(run: RunInProgress): string {
  return `${run.client}/${run.run}`;
}

function liveOf(
  before: Live | undefined,
  update: LiveUpdate,
  nodes: NodeRow[],
  graphs: GraphRow[],
): Live {
  return {
    time: update.time,
    since: update.since ?? before?.since ?? 0,
    version: update.version ?? before?.version ?? "",
    window: update.window ?? before?.window ?? "",
    health: update.health ?? before?.health ?? { status: "healthy", stages: [] },
    completeness: update.completeness ??
      before?.completeness ?? {
        ratio: null,
        dropped: 0,
        deaths: 0,
        unknown_seconds: 0,
      },
    agent: update.agent ??
      before?.agent ?? { cpu_percent: null, memory_bytes: 0, store_bytes: 0 },
    processes: update.processes ?? before?.processes ?? {},
    nodes,
    graphs,
    runs: applyList(before?.runs ?? [], update.runs, runKey),
    runs_in_progress: update.runs?.active ?? before?.runs_in_progress ?? 0,
    alerts: applyList(before?.alerts ?? [], update.alerts, (alert) => alert.id),
    alerts_active: update.alerts?.active ?? before?.alerts_active ?? 0,
  };
}

function applyList<T>(
  before: T[],
  change: ListChange<T> | null,
  keyOf: (item: T) => string,
): T[] {
  if (change === null) return before;
  const items = new Map(
    [...before, ...change.changed].map((item) => [keyOf(item), item]),
  );
  return change.order.flatMap((key) => items.get(key) ?? []);
}

type Cell = (name: string) => number | null;

function applyTable<T>(
  table: Table<T>,
  change: TableChange,
  rowOf: (key: string[], cell: Cell) => T,
): Table<T> {
  const names = Object.keys(change.columns);
  if (names.length === 0 && change.keys.length === 0) return table;
  const keys = change.keys.length > 0 ? [...table.keys, ...change.keys] : table.keys;
  const columns = { ...table.columns };
  const changed = new Set<number>();
  for (let row = table.keys.length; row < keys.length; row++) changed.add(row);
  for (const name of names) {
    const column = columns[name]?.slice() ?? [];
    applyColumn(column, change.columns[name]!, VALUES.has(name), changed);
    columns[name] = column;
  }
  const rows = table.rows.slice();
  for (const row of changed) {
    rows[row] = rowOf(keys[row]!, (name) => columns[name]?.[row] ?? null);
  }
  return { keys, columns, rows };
}

function applyColumn(
  column: (number | null)[],
  change: ColumnChange,
  isValue: boolean,
  changed: Set<number>,
): void {
  let row = -1;
  change.values.forEach((value, n) => {
    row += change.rows === null ? 1 : change.rows[n]!;
    column[row] = isValue ? value : (column[row] ?? 0) + (value ?? 0);
    changed.add(row);
  });
}

function nodeRow(key: string[], cell: Cell): NodeRow {
  const [service = "", graph = "", node = ""] = key;
  const in_flight = cell("in_flight") ?? 0;
  return { service, graph, node, ...figures(cell), in_flight };
}

function graphRow(key: string[], cell: Cell): GraphRow {
  const [service = "", graph = ""] = key;
  return {
    service,
    graph,
    ...figures(cell),
    visits: cell("visits") ?? 0,
    dead_ends: cell("dead_ends") ?? 0,
    never_reached: cell("never_reached") ?? 0,
    in_progress: cell("in_progress") ?? 0,
  };
}

function figures(cell: Cell): Figures {
  const executions = cell("executions") ?? 0;
  const outcomes = outcomesOf(executions, cell);
  const finished = executions - outcomes.cancelled;
  const seconds = cell("seconds") ?? 0;
  const cost_usd = cell("cost");
  const last = cell("last") ?? 0;
  return {
    executions,
    outcomes,
    success_rate: finished > 0 ? 1 - outcomes.error / finished : null,
    avg: executions > 0 ? seconds / executions : null,
    p50: cell("p50"),
    p95: cell("p95"),
    p99: cell("p99"),
    seconds,
    retries: cell("retries") ?? 0,
    last_execution: last > 0 ? last / 10 : null,
    cost_usd,
    wasted_cost_usd: cell("wasted"),
    tokens: cost_usd === null ? null : (cell("tokens") ?? 0),
  };
}

function outcomesOf(executions: number, cell: Cell): Outcomes {
  const error = cell("error") ?? 0;
  const suppressed = cell("suppressed") ?? 0;
  const fallback = cell("fallback") ?? 0;
  const cancelled = cell("cancelled") ?? 0;
  const ok = executions - error - suppressed - fallback - cancelled;
  return { ok, error, suppressed, fallback, cancelled };
}
