// Cards and lines of the graph, as SVG. Names are text nodes, never markup.
import type { JSX } from "preact";
import { formatCount, formatDuration, formatMoney, formatShare } from "./units";
import type { Differences, EdgeDifference, NodeDifference } from "./compare";
import type { HealthStatus } from "./health";
import {
  CARD_HEIGHT,
  CHARACTER,
  LABEL_LINE,
  MAX_LABEL,
  MAX_LABEL_LINES,
  truncate,
  type GraphEdge,
  type GraphNode,
} from "./model";
import type { SceneEdge, SceneNode } from "./scene";

/** How the parts of the graph stand out. */
export interface Marks {
  /** null: nothing is searched for. */
  matches: ReadonlySet<string> | null;
  hidden: ReadonlySet<string>;
  /** The order in which a run visited the nodes; null: no run is shown. */
  steps: ReadonlyMap<string, number[]> | null;
  /** Edges that the run took. */
  taken: ReadonlySet<string>;
  differences: ReadonlyMap<string, Differences>;
}

const isDimmed = (marks: Marks, key: string) =>
  (marks.matches !== null && !marks.matches.has(key)) ||
  (marks.steps !== null && !marks.steps.has(key) && !marks.taken.has(key));

const SHAPES: Record<HealthStatus, string> = {
  good: "M0 -5A5 5 0 1 1 0 5A5 5 0 1 1 0 -5Z",
  warning: "M0 -6L6 5L-6 5Z",
  bad: "M-4.5 -4.5L4.5 -4.5L4.5 4.5L-4.5 4.5Z",
  idle: "M0 -4A4 4 0 1 1 0 4A4 4 0 1 1 0 -4Z",
  unknown: "M0 -6L6 0L0 6L-6 0Z",
};

/** The shape of a status: colours alone do not reach everybody. */
export function StatusShape({ status }: { status: HealthStatus }) {
  return <path class={`shape ${status}`} d={SHAPES[status]} />;
}

interface CardProps {
  item: SceneNode;
  marks: Marks;
  isSelected: boolean;
  isFocusable: boolean;
  label: string;
  onOpen: (item: SceneNode) => void;
  onToggle: (item: SceneNode) => void;
  onFocus: (item: SceneNode) => void;
}

/** A node; an expanded one is the frame around its graph. */
export function NodeCard(props: CardProps) {
  const { item, marks, isSelected } = props;
  const { node } = item;
  const classes = [
    item.is_expanded ? "frame" : "card",
    node.health.status,
    node.never_reached && "never",
    node.is_removed && "removed",
    isSelected && "selected",
    isDimmed(marks, item.key) && "dimmed",
  ];
  return (
    <g
      class={classes.filter(Boolean).join(" ")}
      transform={`translate(${item.x} ${item.y})`}
      role="button"
      tabIndex={props.isFocusable ? 0 : -1}
      data-key={item.key}
      aria-label={props.label}
      aria-pressed={isSelected}
      onClick={() => props.onOpen(item)}
      onFocus={() => props.onFocus(item)}
    >
      <title>{props.label}</title>
      {node.repeats && <SelfLoop width={item.width} />}
      {node.subgraph !== null && !item.is_expanded && (
        <rect
          class="stack"
          x={4}
          y={-4}
          width={item.width}
          height={item.height}
          rx={8}
        />
      )}
      <rect class="body" width={item.width} height={item.height} rx={8} />
      <CardText {...props} />
    </g>
  );
}

function CardText({ item, marks, onToggle }: CardProps) {
  const { node } = item;
  const characters = (item.width - (node.subgraph === null ? 40 : 60)) / CHARACTER;
  const difference = marks.differences.get(item.model.graph)?.node(node);
  return (
    <>
      <g transform="translate(16 16)">
        <StatusShape status={node.health.status} />
      </g>
      <text class="name" x={28} y={20}>
        {truncate(node.node, characters)}
      </text>
      {!item.is_expanded && (
        <text class="far-name" x={12} y={CARD_HEIGHT.min / 2 + 17}>
          {truncate(node.node, (item.width - 24) / FAR_CHARACTER)}
        </text>
      )}
      {node.subgraph !== null && <Toggle item={item} onToggle={onToggle} />}
      {!item.is_expanded && (
        <g class="details">
          <text class="figures" x={12} y={36}>
            {difference ? changeText(node, difference) : figuresText(node)}
          </text>
          <text class="badges" x={12} y={50}>
            {badgesOf(node, item.width)}
          </text>
          <TimeBar item={item} />
        </g>
      )}
      {marks.steps?.has(item.key) && (
        <text class="steps" x={item.width - 8} y={-6} text-anchor="end">
          {stepsText(marks.steps.get(item.key)!)}
        </text>
      )}
    </>
  );
}

// Of a name that can be read from afar.
const FAR_CHARACTER = 13;

const MAX_STEPS = 6;

function stepsText(steps: number[]): string {
  const first = steps.slice(0, MAX_STEPS).join(", ");
  return steps.length > MAX_STEPS ? `${first} … (${steps.length}×)` : first;
}

function SelfLoop({ width }: { width: number }) {
  const x = width - 36;
  return <path class="loop-line" d={`M${x} 1C${x} -20 ${x + 22} -20 ${x + 22} 1`} />;
}

/** How much of the graph's time is spent in a node. */
function TimeBar({ item }: { item: SceneNode }) {
  const length = (item.width - 16) * item.node.time_share;
  return length < 1 ? null : (
    <rect class="time" x={8} y={item.height - 4} width={length} height={3} rx={1.5} />
  );
}

function Toggle({ item, onToggle }: Pick<CardProps, "item" | "onToggle">) {
  const toggle = (event: Event) => {
    event.stopPropagation();
    onToggle(item);
  };
  return (
    <g
      class="toggle"
      transform={`translate(${item.width - 28} 5)`}
      aria-hidden="true"
      onClick={toggle}
    >
      <rect width={22} height={22} rx={5} />
      <path d={item.is_expanded ? "M6 11H16" : "M6 11H16M11 6V16"} />
    </g>
  );
}

/** Returns "p95 1.98 s · n 12.3k · 98.2 %". */
function figuresText(node: GraphNode): string {
  if (node.never_reached) return "never reached";
  if (node.executions === 0) return "no executions";
  return [
    node.p95 === null ? "" : `p95 ${formatDuration(node.p95)}`,
    `n ${formatCount(node.executions)}`,
    node.success_rate === null ? "" : formatShare(node.success_rate),
  ]
    .filter(Boolean)
    .join(" · ");
}

function changeText(node: GraphNode, difference: NodeDifference): string {
  if (difference.is_removed) return "removed";
  if (difference.is_new) return `new · ${figuresText(node)}`;
  const parts = [
    difference.p95 === null ? "" : `p95 ${signed(difference.p95, formatDuration)}`,
    difference.error_rate === null ? "" : `errors ${points(difference.error_rate)}`,
  ].filter(Boolean);
  return parts.length ? parts.join(" · ") : "nothing to compare with";
}

/** Returns a number with its sign, in a unit: "+0.4 s". */
export function signed(value: number, format: (value: number) => string): string {
  return value === 0 ? "±0" : `${value > 0 ? "+" : "−"}${format(Math.abs(value))}`;
}

/** Returns a difference of shares in percentage points. */
export function points(value: number): string {
  const rounded = Math.round(value * 1000) / 10;
  return rounded === 0 ? "±0 pp" : `${rounded > 0 ? "+" : "−"}${Math.abs(rounded)} pp`;
}

interface Badge {
  name: string;
  text: string;
}

/** Returns what stands out of a node, the most urgent first. */
export function listBadges(node: GraphNode): Badge[] {
  const { fallback, suppressed } = node.outcomes;
  const repeats = node.repeats?.per_run;
  const ends = node.ends.reduce((sum, end) => sum + end.count, 0);
  const badges: [boolean, string, string][] = [
    [node.dead_ends > 0, "dead-end", `⊣ ${formatCount(node.dead_ends)} dead`],
    [node.in_flight > 0, "running", `● ${formatCount(node.in_flight)}`],
    [node.retries > 0, "retries", `↻ ${formatCount(node.retries)}`],
    [fallback + suppressed > 0, "fallback", `↪ ${formatCount(fallback + suppressed)}`],
    [node.repeats !== null, "repeats", repeats ? `↺ ×${repeats.toFixed(1)}` : "↺"],
    [(node.cost_usd ?? 0) > 0, "cost", formatMoney(node.cost_usd)],
    [ends > 0 && node.dead_ends === 0, "ends", `⊣ ${formatCount(ends)}`],
  ];
  return badges.filter(([is]) => is).map(([, name, text]) => ({ name, text }));
}

const BADGE_CHARACTER = 6.2;

function badgesOf(node: GraphNode, width: number): JSX.Element[] {
  let room = (width - 20) / BADGE_CHARACTER;
  const result: JSX.Element[] = [];
  for (const { name, text } of listBadges(node)) {
    room -= text.length + 2;
    if (room < -1) break;
    result.push(
      <tspan class={`badge ${name}`} dx={result.length ? 10 : 0}>
        {text}
      </tspan>,
    );
  }
  return result;
}

interface LineProps {
  item: SceneEdge;
  marks: Marks;
  /** The largest count of an edge. */
  most: number;
  hasMoved: boolean;
}

/** An edge: as wide as its traffic, with its actions and their shares. */
export function EdgeLine({ item, marks, most, hasMoved }: LineProps) {
  const { edge } = item;
  const difference = marks.differences.get(item.model.graph)?.edge(edge);
  const width =
    edge.count > 0 && most > 0 ? 1.2 + 5.8 * Math.sqrt(edge.count / most) : 1;
  const classes = [
    "edge",
    edge.is_back_edge && "back",
    edge.count === 0 && "unused",
    edge.is_removed && "removed",
    difference?.is_new && "new",
    marks.taken.has(item.key) && "taken",
    isDimmed(marks, item.key) && "dimmed",
  ];
  return (
    <g class={classes.filter(Boolean).join(" ")}>
      <path class="line" d={item.line} stroke-width={width} />
      {hasMoved && <path class="flow" d={item.line} />}
      <path class="head" d={item.head} />
      <EdgeLabel item={item} difference={difference ?? null} />
      <title>{describeEdge(edge)}</title>
    </g>
  );
}

function EdgeLabel({
  item,
  difference,
}: {
  item: SceneEdge;
  difference: EdgeDifference | null;
}) {
  const lines = labelLines(item.edge, difference);
  const [x, y] = item.label;
  const top = y - ((lines.length - 1) * LABEL_LINE) / 2 + 4;
  return (
    <text class="label" text-anchor="middle">
      {lines.map((line, index) => (
        <tspan x={x} y={top + index * LABEL_LINE}>
          {line}
        </tspan>
      ))}
    </text>
  );
}

/** Returns the lines of a label: "retry 12 %", "×3.2 per run". */
export function labelLines(
  edge: GraphEdge,
  difference: EdgeDifference | null,
): string[] {
  const shown =
    edge.actions.length > MAX_LABEL_LINES
      ? edge.actions.slice(0, MAX_LABEL_LINES - 1)
      : edge.actions;
  const lines = shown.map(({ action, share }) =>
    [truncate(action, MAX_LABEL), share === null ? "" : shortShare(share)]
      .filter(Boolean)
      .join(" "),
  );
  const more = edge.actions.length - shown.length;
  if (more > 0) lines.push(`and ${more} more`);
  if (difference?.is_removed) lines.push("removed");
  else if (difference?.is_new) lines.push("new");
  else if (difference?.share != null) lines.push(points(difference.share));
  else if (edge.is_back_edge && edge.per_run !== null) {
    lines.push(`×${edge.per_run.toFixed(1)} per run`);
  }
  return lines;
}

/** Returns a share without decimals; what is not nothing is not shown as 0. */
function shortShare(share: number): string {
  const percent = Math.round(share * 100);
  if (share > 0 && percent === 0) return "<1 %";
  return share < 1 && percent === 100 ? ">99 %" : `${percent} %`;
}

/** Returns a sentence about an edge. */
export function describeEdge(edge: GraphEdge): string {
  const actions = edge.actions.map(({ action, count, share }) => {
    const part = share === null ? "" : `, ${formatShare(share)} of its actions`;
    return `"${action}" ${count.toLocaleString("en")} times${part}`;
  });
  const repeats =
    edge.is_back_edge && edge.per_run !== null
      ? `; it leads back, ${edge.per_run.toFixed(1)} times per run that takes it`
      : "";
  return `${edge.source} → ${edge.target}: ${actions.join(", ")}${repeats}`;
}

/** Returns a sentence about a node, with the edges that leave it. */
export function describeNode(item: SceneNode, edges: readonly GraphEdge[]): string {
  const { node } = item;
  const parts = [
    `${node.node}: ${node.health.status}, ${node.health.reasons.join(", ")}`,
    node.executions > 0 ? figuresText(node) : "",
    node.in_flight > 0 ? `${node.in_flight} in flight` : "",
    node.retries > 0 ? `${node.retries} retries` : "",
    node.outcomes.fallback > 0 ? `${node.outcomes.fallback} fallbacks` : "",
    (node.cost_usd ?? 0) > 0 ? `cost ${formatMoney(node.cost_usd)}` : "",
    node.subgraph === null ? "" : `contains the graph ${node.subgraph}`,
    ...edges.map(
      ({ target, actions }) =>
        `leads to ${target} by ${actions.map(({ action }) => action).join(" or ")}`,
    ),
  ];
  return parts.filter(Boolean).join("; ");
}
