// The graph as a table: for screen readers, for searching, and for graphs too large to draw.
import { Count } from "../ui/figure";
import {
  exact,
  formatCount,
  formatDuration,
  formatMoney,
  formatShare,
} from "../ui/format";
import { Table, type Column } from "../ui/table";
import type { GraphNode } from "./model";
import type { Scene, SceneNode } from "./scene";

interface NodeTableProps {
  nodes: readonly SceneNode[];
  edges: Scene["edges"];
  selected: string | null;
  onOpen: (item: SceneNode) => void;
}

const STATUS_ORDER = ["bad", "warning", "unknown", "idle", "good"];

export function NodeTable({ nodes, edges, selected, onOpen }: NodeTableProps) {
  const columns: Column<SceneNode>[] = [
    {
      key: "node",
      label: "Node",
      value: (item) => item.path.join(" › "),
      cell: (item) => (
        <button type="button" class="link" onClick={() => onOpen(item)}>
          {item.path.join(" › ")}
        </button>
      ),
    },
    {
      key: "health",
      label: "Health",
      value: ({ node }) => STATUS_ORDER.indexOf(node.health.status),
      cell: ({ node }) => <span class={node.health.status}>{node.health.status}</span>,
      title: ({ node }) => node.health.reasons.join("; "),
    },
    ...FIGURES,
    {
      key: "targets",
      label: "Leads to",
      cell: (item) => describeTargets(item, edges),
    },
  ];
  return (
    <Table
      id="graph-nodes"
      caption="Nodes of the graph"
      columns={columns}
      rows={nodes}
      rowKey={({ key }) => key}
      rowClass={({ key }) => (key === selected ? "selected" : "")}
    />
  );
}

function figure(
  key: string,
  label: string,
  value: (node: GraphNode) => number | null,
  format: (value: number | null) => string,
  unit = "",
): Column<SceneNode> {
  return {
    key,
    label,
    isNumeric: true,
    value: ({ node }) => value(node),
    cell: ({ node }) => format(value(node)),
    title: ({ node }) => exact(value(node), unit),
  };
}

const FIGURES: Column<SceneNode>[] = [
  figure("executions", "Executions", (node) => node.executions, formatCount),
  figure("success", "Success", (node) => node.success_rate, formatShare),
  quantile("p50"),
  quantile("p95"),
  figure("time", "Time", (node) => node.time_share, formatShare),
  figure("retries", "Retries", (node) => node.retries, formatCount),
  figure("flight", "In flight", (node) => node.in_flight, formatCount),
  figure("cost", "Cost", (node) => node.cost_usd, formatMoney, "USD"),
];

function quantile(name: "p50" | "p95"): Column<SceneNode> {
  return {
    ...figure(name, name, (node) => node[name], formatDuration, "s"),
    cell: ({ node }) => (
      <>
        {formatDuration(node[name])}{" "}
        {node[name] !== null && <Count n={node.executions} />}
      </>
    ),
  };
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
