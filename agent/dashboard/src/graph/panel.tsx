// The figures of the node that is selected in the graph.
import { useEffect, useRef } from "preact/hooks";
import { formatCount, formatDuration, formatMoney, formatShare } from "../ui/format";
import { Link } from "../ui/link";
import type { Differences } from "./compare";
import { StatusShape } from "./marks";
import { RunsHere } from "./runs-here";
import { perRunText, points, signed } from "./words";
import type { GraphEdge, GraphNode } from "./model";
import type { SceneNode } from "./scene";

interface PanelProps {
  item: SceneNode;
  differences: Differences | undefined;
  comparison: string | null;
  hasFocus: boolean;
  onClose: () => void;
  onSelect: (node: string) => void;
  onToggle: (item: SceneNode) => void;
}

export function NodePanel(props: PanelProps) {
  const { item } = props;
  const { node, model } = item;
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    if (props.hasFocus) heading.current?.focus();
  }, [item.key, props.hasFocus]);
  const target = {
    service: model.service || null,
    graph: model.graph,
    node: node.node,
  };
  return (
    <aside
      class="node-panel"
      aria-label={`Node ${node.node}`}
      onKeyDown={(event) => event.key === "Escape" && props.onClose()}
    >
      <header>
        <h2 ref={heading} tabIndex={-1}>
          {node.node}
        </h2>
        <button
          type="button"
          aria-label="Close"
          title="Close (Esc)"
          onClick={props.onClose}
        >
          ×
        </button>
      </header>
      <p class={`health ${node.health.status}`}>
        <svg width="16" height="16" viewBox="-8 -8 16 16" aria-hidden="true">
          <StatusShape status={node.health.status} />
        </svg>
        <b>{node.health.status}</b>: {node.health.reasons.join("; ")}
      </p>
      <nav class="panel-links" aria-label={`More about ${node.node}`}>
        <Link to={{ ...target, view: "node" }}>Open node</Link>
        <Link to={{ ...target, view: "runs" }}>Runs</Link>
        {node.health.status === "bad" && (
          <Link to={{ ...target, view: "alerts" }}>Alerts</Link>
        )}
        {node.subgraph !== null && (
          <button type="button" onClick={() => props.onToggle(item)}>
            {item.is_expanded ? "Collapse" : "Expand"} {node.subgraph}
          </button>
        )}
      </nav>
      <dl class="node-figures">
        {listFigures(node).map(([name, value, exact]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd title={exact}>{value}</dd>
          </div>
        ))}
      </dl>
      {node.in_flight > 0 && (
        <RunsHere service={model.service} graph={model.graph} node={node.node} />
      )}
      {props.differences && props.comparison && (
        <Difference
          node={node}
          differences={props.differences}
          comparison={props.comparison}
        />
      )}
      <Edges {...props} />
    </aside>
  );
}

type Figure = [name: string, value: string, exact: string];

function listFigures(node: GraphNode): Figure[] {
  const { outcomes } = node;
  const n = `n ${formatCount(node.executions)}`;
  const seconds = (value: number | null) => (value === null ? "" : `${value} s`);
  const dollars = (value: number | null) => (value === null ? "" : `$${value}`);
  const rows: [boolean, ...Figure][] = [
    [true, "Executions", formatCount(node.executions), String(node.executions)],
    [
      node.success_rate !== null,
      "Success",
      formatShare(node.success_rate),
      exactShare(node),
    ],
    [outcomes.error > 0, "Errors", formatCount(outcomes.error), String(outcomes.error)],
    [outcomes.fallback > 0, "Fallbacks", formatCount(outcomes.fallback), ""],
    [outcomes.suppressed > 0, "Suppressed", formatCount(outcomes.suppressed), ""],
    [outcomes.cancelled > 0, "Cancelled", formatCount(outcomes.cancelled), ""],
    [node.retries > 0, "Retries", formatCount(node.retries), String(node.retries)],
    [
      (node.max_visits ?? 0) > 1,
      "Most visits in one run",
      formatCount(node.max_visits),
      "within the last hour",
    ],
    [node.in_flight > 0, "In flight", formatCount(node.in_flight), ""],
    [node.avg !== null, "Average", formatDuration(node.avg), seconds(node.avg)],
    [node.p50 !== null, "p50", `${formatDuration(node.p50)} (${n})`, seconds(node.p50)],
    [node.p95 !== null, "p95", `${formatDuration(node.p95)} (${n})`, seconds(node.p95)],
    [node.p99 !== null, "p99", `${formatDuration(node.p99)} (${n})`, seconds(node.p99)],
    [
      node.usual_p95 !== null,
      "Usual p95",
      formatDuration(node.usual_p95),
      seconds(node.usual_p95),
    ],
    [
      node.seconds > 0,
      "Share of time",
      formatShare(node.time_share),
      seconds(node.seconds),
    ],
    [
      node.cost_usd !== null,
      "Cost",
      formatMoney(node.cost_usd),
      dollars(node.cost_usd),
    ],
    [
      (node.wasted_cost_usd ?? 0) > 0,
      "Wasted cost",
      formatMoney(node.wasted_cost_usd),
      dollars(node.wasted_cost_usd),
    ],
    [node.tokens !== null, "Tokens", formatCount(node.tokens), String(node.tokens)],
  ];
  return rows.filter(([is]) => is).map(([, ...figure]) => figure);
}

function exactShare({ outcomes, executions }: GraphNode): string {
  const finished = executions - outcomes.cancelled;
  return `${finished - outcomes.error} of ${finished}`;
}

function Difference({
  node,
  differences,
  comparison,
}: {
  node: GraphNode;
  differences: Differences;
  comparison: string;
}) {
  const difference = differences.node(node);
  const rows: [string, string | null][] = [
    ["p95", difference.p95 === null ? null : signed(difference.p95, formatDuration)],
    ["Errors", difference.error_rate === null ? null : points(difference.error_rate)],
    ["Executions", signed(difference.executions, formatCount)],
    [
      "Cost",
      difference.cost_usd === null ? null : signed(difference.cost_usd, formatMoney),
    ],
  ];
  return (
    <section>
      <h3>Compared with {comparison}</h3>
      {difference.is_new && <p>It was not in the graph then.</p>}
      {difference.is_removed && <p>It is no longer in the graph.</p>}
      <dl class="node-figures">
        {rows.map(
          ([name, value]) =>
            value !== null && (
              <div key={name}>
                <dt>{name}</dt>
                <dd>{value}</dd>
              </div>
            ),
        )}
      </dl>
    </section>
  );
}

function Edges({ item, onSelect }: PanelProps) {
  const { node, model } = item;
  const outgoing = model.edges.filter(({ source }) => source === node.node);
  const incoming = model.edges.filter(({ target }) => target === node.node);
  const self = node.repeats ? [node.repeats] : [];
  return (
    <>
      <EdgeList
        title="Leads to"
        edges={[...outgoing, ...self]}
        end="target"
        onSelect={onSelect}
      />
      {node.ends.length > 0 && (
        <section>
          <h3>Runs that ended here</h3>
          <ul>
            {node.ends.map(({ action, count }) => (
              <li key={action}>
                <code>{action}</code> {formatCount(count)}
              </li>
            ))}
          </ul>
        </section>
      )}
      <EdgeList
        title="Reached from"
        edges={incoming}
        end="source"
        onSelect={onSelect}
      />
    </>
  );
}

interface EdgeListProps {
  title: string;
  edges: GraphEdge[];
  end: "source" | "target";
  onSelect: (node: string) => void;
}

function EdgeList({ title, edges, end, onSelect }: EdgeListProps) {
  if (!edges.length) return null;
  return (
    <section>
      <h3>{title}</h3>
      <ul>
        {edges.flatMap((edge) =>
          edge.actions.map(({ action, count, share }) => (
            <li key={JSON.stringify([edge[end], action])}>
              <button type="button" class="link" onClick={() => onSelect(edge[end])}>
                {edge[end]}
              </button>{" "}
              <code>{action}</code> {formatCount(count)}
              {share !== null && ` · ${formatShare(share)}`}
              {edge.is_back_edge &&
                edge.per_run !== null &&
                ` · ${perRunText(edge.per_run)}`}
            </li>
          )),
        )}
      </ul>
    </section>
  );
}
