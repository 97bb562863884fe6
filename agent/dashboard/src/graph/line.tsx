// Edges of the graph, as SVG.
import type { EdgeDifference } from "./compare";
import { isDimmed, type Marks } from "./marks";
import { LABEL_CHARACTER, LABEL_LINE, textWidth } from "./wiring";
import type { SceneEdge } from "./scene";
import { describeEdge, labelLines } from "./words";

interface LineProps {
  item: SceneEdge;
  marks: Marks;
  /** The largest count of an edge. */
  most: number;
}

/** An edge: as wide as its traffic, with its actions and their shares. */
export function EdgeLine({ item, marks, most }: LineProps) {
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
      <path class="target" d={item.line} />
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
  const width = Math.max(...lines.map(textWidth)) * LABEL_CHARACTER;
  const height = lines.length * LABEL_LINE;
  const top = y - height / 2;
  return (
    <g class="label">
      <rect x={x - width / 2} y={top} width={width} height={height} rx={3} />
      <text text-anchor="middle">
        {lines.map((line, index) => (
          <tspan key={line} x={x} y={top + 11 + index * LABEL_LINE}>
            {line}
          </tspan>
        ))}
      </text>
    </g>
  );
}
