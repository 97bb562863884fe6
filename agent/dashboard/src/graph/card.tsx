// Nodes of the graph, as SVG. Names are text nodes, never markup.
import type { JSX } from "preact";
import { isDimmed, StatusShape, type Marks } from "./marks";
import { CARD_HEIGHT, CHARACTER, truncate } from "./wiring";
import type { SceneNode } from "./scene";
import { textsOf, type Badge } from "./words";

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

/**
 * A node; an expanded one is the frame around its graph. A card grows from its centre, and
 * its text stays where it is.
 */
export function NodeCard(props: CardProps) {
  const { item, marks, isSelected } = props;
  const { node } = item;
  const textHeight = item.is_expanded ? item.height : CARD_HEIGHT.min;
  const classes = [
    item.is_expanded ? "frame" : "card",
    node.health.status,
    node.never_reached && "never",
    node.is_removed && "removed",
    (node.success_rate ?? 1) < 1 && "failing",
    isSelected && "selected",
    isDimmed(marks, item.key) && "dimmed",
  ];
  return (
    <g
      class={classes.filter(Boolean).join(" ")}
      transform={`translate(${item.x} ${item.y + item.height / 2})`}
      role="button"
      tabIndex={props.isFocusable ? 0 : -1}
      data-key={item.key}
      aria-label={props.label}
      aria-pressed={isSelected}
      onClick={() => props.onOpen(item)}
      onFocus={() => props.onFocus(item)}
    >
      <title>{props.label}</title>
      <g aria-hidden="true" transform={`translate(0 ${-item.height / 2})`}>
        <CardBody item={item} />
      </g>
      <g aria-hidden="true" transform={`translate(0 ${-textHeight / 2})`}>
        <CardText {...props} />
      </g>
    </g>
  );
}

function CardBody({ item }: { item: SceneNode }) {
  const { width, height, node } = item;
  return (
    <>
      {node.repeats && <SelfLoop width={width} />}
      {node.subgraph !== null && !item.is_expanded && (
        <rect class="stack" x={4} y={-4} width={width} height={height} rx={8} />
      )}
      <rect class="body" width={width} height={height} rx={8} />
      {!item.is_expanded && <TimeBar item={item} />}
    </>
  );
}

function CardText({ item, marks, onToggle }: CardProps) {
  const { node } = item;
  const { steps, figures, badges } = textsOf(item, marks);
  const characters = (item.width - (node.subgraph === null ? 40 : 60)) / CHARACTER;
  // Spaces separate the words of the text as a whole, in the order of the card's label.
  return (
    <>
      <g transform="translate(16 16)">
        <StatusShape status={node.health.status} />
      </g>
      {steps && (
        <text class="steps" x={12} y={-17}>
          {steps}
        </text>
      )}{" "}
      <text class="name" x={28} y={20}>
        {truncate(node.node, characters)}
      </text>{" "}
      {!item.is_expanded && (
        <text class="far-name" x={12} y={CARD_HEIGHT.min / 2 + 17}>
          {truncate(node.node, (item.width - 24) / FAR_CHARACTER)}
        </text>
      )}
      {node.subgraph !== null && <Toggle item={item} onToggle={onToggle} />}
      {!item.is_expanded && (
        <g class="details">
          <text class="figures" x={12} y={36}>
            {showFigures(figures)}
          </text>{" "}
          <text class="badges" x={12} y={50}>
            {badges.map(showBadge)}
          </text>
        </g>
      )}
    </>
  );
}

// Of a name that can be read from afar.
const FAR_CHARACTER = 13;

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

const FIGURES = ["quantile", "count", "share"];

/** Shows "p95 1.98 s · n 12.3k · 98.2 %", whose parts a smaller drawing leaves out. */
function showFigures(figures: string): JSX.Element[] {
  const parts = figures.split(" · ");
  return parts.map((part, index) => (
    <tspan class={parts.length === FIGURES.length ? FIGURES[index] : undefined}>
      {index > 1 && " · "}
      {part}
      {index === 0 && parts.length > 1 && " · "}
    </tspan>
  ));
}

function showBadge({ name, text }: Badge, index: number): JSX.Element {
  return (
    <tspan class={`badge ${name}`} dx={index ? 7 : 0}>
      {index ? ` ${text}` : text}
    </tspan>
  );
}
