// The texts on nodes and edges.
import type { EdgeDifference, NodeDifference } from "./compare";
import type { Marks } from "./marks";
import type { GraphEdge, GraphNode } from "./model";
import { MAX_LABEL, MAX_LABEL_LINES, truncate } from "./wiring";
import type { SceneNode } from "./scene";
import {
  formatCount,
  formatDuration,
  formatMoney,
  formatNumber,
  formatShare,
} from "../ui/format";

/** The texts on a card besides its name; empty where it has none. */
export interface CardTexts {
  steps: string;
  figures: string;
  badges: Badge[];
}

/** Returns the texts on a card; an expanded one has no figures. */
export function textsOf(item: SceneNode, marks: Marks): CardTexts {
  const { node } = item;
  const steps = marks.steps?.get(item.key) ?? "";
  if (item.is_expanded) return { steps, figures: "", badges: [] };
  const difference = marks.differences.get(item.model.graph)?.node(node);
  return {
    steps,
    figures: difference ? changeText(node, difference) : figuresText(node),
    badges: fitBadges(listBadges(node), item.width),
  };
}

/** Returns "p95 1.98 s · n 12.3k · 98.2 %". */
export function figuresText(node: GraphNode): string {
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

/** Returns what differs from the earlier period. */
export function changeText(node: GraphNode, difference: NodeDifference): string {
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

export interface Badge {
  name: string;
  text: string;
}

/** Returns what stands out of a node, the most urgent first. */
export function listBadges(node: GraphNode): Badge[] {
  const { fallback, suppressed } = node.outcomes;
  const repeats = node.max_visits === null ? "↺" : `↺ ×${node.max_visits}`;
  const isRepeated = node.repeats !== null || (node.max_visits ?? 0) > 1;
  const ends = node.ends.reduce((sum, end) => sum + end.count, 0);
  const badges: [boolean, string, string][] = [
    [node.dead_ends > 0, "dead-end", `⊣ ${formatCount(node.dead_ends)} dead`],
    [node.in_flight > 0, "running", `● ${formatCount(node.in_flight)}`],
    [node.retries > 0, "retries", `↻ ${formatCount(node.retries)}`],
    [fallback + suppressed > 0, "fallback", `↪ ${formatCount(fallback + suppressed)}`],
    [(node.cost_usd ?? 0) > 0, "cost", formatMoney(node.cost_usd)],
    // The edge that leads back shows it, too.
    [isRepeated, "repeats", repeats],
    [ends > 0 && node.dead_ends === 0, "ends", `⊣ ${formatCount(ends)}`],
  ];
  return badges.filter(([is]) => is).map(([, name, text]) => ({ name, text }));
}

// In units of the drawing; a badge begins with a symbol, which is wider than a digit.
const BADGE = { character: 6.8, symbol: 4, gap: 11, margin: 22 };
const MORE: Badge = { name: "more", text: "…" };

/** Returns those of the first badges that fit on a card, and a sign if there are more. */
export function fitBadges(badges: Badge[], width: number): Badge[] {
  const lengthOf = ({ text }: Badge) =>
    text.length * BADGE.character + BADGE.symbol + BADGE.gap;
  const room = width - BADGE.margin + BADGE.gap;
  const fits = (some: readonly Badge[]) =>
    some.reduce((sum, badge) => sum + lengthOf(badge), 0) <= room;
  if (fits(badges)) return badges;
  let count = badges.length - 1;
  while (count > 0 && !fits([...badges.slice(0, count), MORE])) count--;
  return [...badges.slice(0, count), MORE];
}

/**
 * Returns the lines of a label: "retry 12 %", "×3.2 per run". The only edge of a node has
 * its count instead of an action and a share that say nothing.
 */
export function labelLines(
  edge: GraphEdge,
  difference: EdgeDifference | null,
): string[] {
  const lines = edge.is_plain ? [formatCount(edge.count)] : actionLines(edge);
  if (difference?.is_removed) lines.push("removed");
  else if (difference?.is_new) lines.push("new");
  else if (difference?.share && !edge.is_plain) lines.push(points(difference.share));
  else if (edge.is_back_edge && edge.per_run !== null) {
    lines.push(perRunText(edge.per_run));
  }
  return lines;
}

function actionLines(edge: GraphEdge): string[] {
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
  return lines;
}

/** Returns "×0.24 per run". */
export function perRunText(times: number): string {
  return `×${Number(times.toPrecision(2))} per run`;
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
    return `"${action}" ${formatNumber(count)} times${part}`;
  });
  const repeats =
    edge.is_back_edge && edge.per_run !== null
      ? `; it leads back, ${perRunText(edge.per_run)} on average`
      : "";
  return `${edge.source} → ${edge.target}: ${actions.join(", ")}${repeats}`;
}

/**
 * Returns a sentence about a node, with the edges that leave it. It begins with the texts
 * on the card in their order, so that who controls the page by voice can say what they see.
 */
export function describeNode(
  item: SceneNode,
  edges: readonly GraphEdge[],
  marks: Marks,
): string {
  const { node } = item;
  const { steps, figures, badges } = textsOf(item, marks);
  const allFigures = figuresText(node);
  const name = steps ? `step ${steps}: ${node.node}` : node.node;
  const parts = [
    [name, withCommas(figures), ...badges.map(({ text }) => text)]
      .filter(Boolean)
      .join(", "),
    `${node.health.status}, ${node.health.reasons.join(", ")}`,
    node.executions > 0 && figures !== allFigures ? withCommas(allFigures) : "",
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

const withCommas = (figures: string) => figures.replaceAll(" · ", ", ");
