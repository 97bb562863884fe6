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
    legend: options.legend === "1",
    table: options.table === "1",
  };
}

/** The option holds paths as JSON: names can contain every character. */
function readOpen(text: string | undefined): Set<string> {
  try {
    const paths: unknown = JSON.parse(text ?? "[]");
    if (!Array.isArray(paths)) return new Set();
    return new Set(paths.filter(Array.isArray).map((path) => JSON.stringify(path)));
  } catch {
    return new Set();
  }
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
