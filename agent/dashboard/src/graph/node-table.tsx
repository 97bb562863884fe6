// The graph as tables: for screen readers, for searching, and for graphs too large to draw.
import { useState } from "preact/hooks";
import { formatCount, formatDuration, formatMoney, formatShare } from "./units";
import type { GraphNode } from "./model";
import type { Scene, SceneNode } from "./scene";

interface NodeTableProps {
  nodes: readonly SceneNode[];
  edges: Scene["edges"];
  selected: string | null;
  onOpen: (item: SceneNode) => void;
}

interface Column {
  name: string;
  value: (node: GraphNode) => number | string | null;
  text: (node: GraphNode) => string;
}

const COLUMNS: Column[] = [
  { name: "Node", value: (node) => node.node, text: (node) => node.node },
  {
    name: "Health",
    value: (node) =>
      ["bad", "warning", "unknown", "idle", "good"].indexOf(node.health.status),
    text: (node) => node.health.status,
  },
  {
    name: "Executions",
    value: (node) => node.executions,
    text: (node) => formatCount(node.executions),
  },
  {
    name: "Success",
    value: (node) => node.success_rate,
    text: (node) => formatShare(node.success_rate),
  },
  { name: "p50", value: (node) => node.p50, text: (node) => formatDuration(node.p50) },
  { name: "p95", value: (node) => node.p95, text: (node) => formatDuration(node.p95) },
  {
    name: "Time",
    value: (node) => node.time_share,
    text: (node) => formatShare(node.time_share),
  },
  {
    name: "Retries",
    value: (node) => node.retries,
    text: (node) => formatCount(node.retries),
  },
  {
    name: "In flight",
    value: (node) => node.in_flight,
    text: (node) => formatCount(node.in_flight),
  },
  {
    name: "Cost",
    value: (node) => node.cost_usd,
    text: (node) => formatMoney(node.cost_usd),
  },
];
const MAX_ROWS = 200;

export function NodeTable({ nodes, edges, selected, onOpen }: NodeTableProps) {
  const [sort, setSort] = useState({ column: -1, isDescending: false });
  const [limit, setLimit] = useState(MAX_ROWS);
  const column = COLUMNS[sort.column];
  const sorted = column
    ? [...nodes].sort(
        (a, b) =>
          compareValues(column.value(a.node), column.value(b.node)) *
          (sort.isDescending ? -1 : 1),
      )
    : nodes;
  return (
    <div class="tables">
      <table>
        <caption>Nodes</caption>
        <thead>
          <tr>
            {COLUMNS.map(({ name }, index) => (
              <th
                key={name}
                scope="col"
                aria-sort={
                  index !== sort.column
                    ? "none"
                    : sort.isDescending
                      ? "descending"
                      : "ascending"
                }
              >
                <button
                  type="button"
                  onClick={() =>
                    setSort({
                      column: index,
                      isDescending:
                        sort.column === index ? !sort.isDescending : index > 1,
                    })
                  }
                >
                  {name}
                </button>
              </th>
            ))}
            <th scope="col">Leads to</th>
          </tr>
        </thead>
        <tbody>
          {sorted.slice(0, limit).map((item) => (
            <tr key={item.key} class={item.key === selected ? "selected" : ""}>
              <th scope="row">
                <button type="button" onClick={() => onOpen(item)}>
                  {item.path.join(" › ")}
                </button>
              </th>
              {COLUMNS.slice(1).map(({ name, text }) => (
                <td key={name}>{text(item.node)}</td>
              ))}
              <td class="wide">{describeTargets(item, edges)}</td>
            </tr>
          ))}
        </tbody>
      </table>
      {sorted.length > limit && (
        <button type="button" onClick={() => setLimit(limit + MAX_ROWS)}>
          Show more of {sorted.length} nodes
        </button>
      )}
    </div>
  );
}

function describeTargets(item: SceneNode, edges: Scene["edges"]): string {
  const own = edges
    .filter(({ source }) => source.key === item.key)
    .flatMap(({ edge }) =>
      edge.actions.map(({ action, share }) => {
        const part = share === null ? "" : ` ${formatShare(share)}`;
        return `${edge.target} (${action}${part}${edge.is_back_edge ? ", back" : ""})`;
      }),
    );
  const ends = item.node.ends.map(({ action }) => `end (${action})`);
  return [...own, ...ends].join(", ");
}

// Rows without a value are last, either way.
function compareValues(a: number | string | null, b: number | string | null): number {
  if (typeof a === "string" && typeof b === "string") return a < b ? -1 : a > b ? 1 : 0;
  if (a === null || b === null) return Number(a === null) - Number(b === null);
  return Number(a) - Number(b);
}
