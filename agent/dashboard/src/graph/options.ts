// The parameters of the graph view in the address.
import { navigate, route } from "../state/route";
import { COMPARISONS, type Comparison } from "./compare";

/** What the address says of the graph view beside the graph and the time range. */
export interface GraphOptions {
  find: string;
  hide: string;
  compare: Comparison | null;
  /** The end of the replayed period in Unix seconds. */
  replay: number | null;
  /** Keys of the paths of expanded nodes. */
  open: ReadonlySet<string>;
  /** The names on the way from `Route.node` to the selected node inside it. */
  inner: readonly string[];
  legend: boolean;
  table: boolean;
}

/** Reads the options; what is invalid counts as absent. */
export function readOptions(options: Readonly<Record<string, string>>): GraphOptions {
  const compare = options.compare ?? "";
  const replay = Number(options.replay);
  return {
    find: options.find ?? "",
    hide: options.hide ?? "",
    compare: Object.hasOwn(COMPARISONS, compare) ? (compare as Comparison) : null,
    replay: Number.isFinite(replay) && replay > 0 ? replay : null,
    open: readOpen(options.open),
    inner: readNames(options.inner),
    legend: options.legend === "1",
    table: options.table === "1",
  };
}

// As JSON: names can contain every character.
function readOpen(text: string | undefined): Set<string> {
  return new Set(
    readList(text)
      .filter(Array.isArray)
      .map((path) => JSON.stringify(path)),
  );
}

function readNames(text: string | undefined): string[] {
  return readList(text).map(String);
}

function readList(text: string | undefined): unknown[] {
  try {
    const list: unknown = JSON.parse(text ?? "[]");
    return Array.isArray(list) ? list : [];
  } catch {
    return [];
  }
}

/** Selects a node by the names on the way to it; null selects none. */
export function selectPath(path: readonly string[] | null): void {
  const { inner: _, ...options } = route.value.options;
  const [node, ...inner] = path ?? [];
  if (inner.length) options.inner = JSON.stringify(inner);
  navigate({ node: node ?? null, options }, true);
}

/** Changes options in the address; null removes one. */
export function setOptions(
  change: Record<string, string | null>,
  replace = true,
): void {
  const options = { ...route.value.options };
  for (const [key, value] of Object.entries(change)) {
    if (value === null || value === "") delete options[key];
    else options[key] = value;
  }
  navigate({ options }, replace);
}

/** Expands or collapses a node. */
export function toggleOpen(open: ReadonlySet<string>, key: string): void {
  const next = new Set(open);
  if (!next.delete(key)) next.add(key);
  setOptions({ open: next.size ? `[${[...next].sort().join(",")}]` : null }, false);
}
