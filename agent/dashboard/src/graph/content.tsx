// Everything in the drawing; what has not changed is not rendered again.
import { Component, type VNode } from "preact";
import { useMemo, useRef } from "preact/hooks";
import type { CanvasProps } from "./canvas";
import { NodeCard } from "./card";
import { EdgeLine } from "./line";
import { isDimmed, withoutHidden, type Moved } from "./marks";
import type { Scene, SceneEdge, SceneNode } from "./scene";
import { describeNode } from "./words";

// More would make the page slow, and show nothing.
const MAX_ANIMATED = 100;

interface ContentProps extends CanvasProps {
  /** The key of the node that Tab leads to. */
  entry: string | null;
  onFocus: (item: SceneNode) => void;
}

export function CanvasContent(props: ContentProps) {
  const scene = withoutHidden(props.scene, props.marks);
  const cards = useCards(props);
  const lines = useLines(props, scene);
  return (
    <>
      {/* Frames first, so that what they contain is drawn over them. */}
      {scene.nodes.filter((item) => item.is_expanded).map(cards)}
      <g aria-hidden="true">{scene.edges.map(lines)}</g>
      {scene.edges.length <= MAX_ANIMATED && (
        <Flow edges={scene.edges} moved={props.moved} />
      )}
      {scene.nodes.filter((item) => !item.is_expanded).map(cards)}
    </>
  );
}

function useCards(props: ContentProps): (item: SceneNode) => VNode {
  const { scene, marks } = props;
  const latest = useRef(props);
  latest.current = props;
  // The same functions always, as cards that have not changed keep theirs.
  const handlers = useMemo(
    () => ({
      onOpen: (item: SceneNode) => latest.current.onOpen(item),
      onToggle: (item: SceneNode) => latest.current.onToggle(item),
      onFocus: (item: SceneNode) => latest.current.onFocus(item),
    }),
    [],
  );
  const outgoing = useMemo(() => groupBySource(scene.edges), [scene]);
  return (item) => {
    const { key, model, node, ...rest } = item;
    const label = describeNode(item, outgoing.get(key) ?? [], marks);
    const isSelected = props.selected === key;
    const isFocusable = props.entry === key;
    const signature = JSON.stringify([
      ...[rest, node, label, isSelected, isFocusable, isDimmed(marks, key)],
      ...[marks.steps?.get(key), marks.differences.get(model.graph)?.node(node)],
    ]);
    const states = { item, marks, label, isSelected, isFocusable };
    const render = () => <NodeCard {...states} {...handlers} />;
    return <Memoized key={key} signature={signature} render={render} />;
  };
}

function groupBySource(edges: Scene["edges"]): Map<string, SceneEdge["edge"][]> {
  const result = new Map<string, SceneEdge["edge"][]>();
  for (const { source, edge } of edges) {
    const group = result.get(source.key);
    if (group) group.push(edge);
    else result.set(source.key, [edge]);
  }
  return result;
}

function useLines(props: ContentProps, scene: Scene): (item: SceneEdge) => VNode {
  const { marks } = props;
  const most = Math.max(0, ...scene.edges.map(({ edge }) => edge.count));
  return (item) => {
    const { key, edge, model } = item;
    const signature = JSON.stringify([
      ...[item.line, item.label, edge, edge.count && most],
      ...[isDimmed(marks, key), marks.taken.has(key)],
      marks.differences.get(model.graph)?.edge(edge),
    ]);
    const render = () => <EdgeLine {...{ item, marks, most }} />;
    return <Memoized key={key} signature={signature} render={render} />;
  };
}

/** The edges that have just carried a run. */
function Flow({ edges, moved }: { edges: readonly SceneEdge[]; moved: Moved }) {
  const lines = edges.filter(({ key }) => moved.keys.has(key));
  // The key makes an update start the animation anew.
  return (
    <g key={moved.update} class="flow" aria-hidden="true">
      {lines.map(({ key, line }) => (
        <path key={key} d={line} />
      ))}
    </g>
  );
}

interface MemoizedProps {
  /** Everything that the rendering depends on. */
  signature: string;
  render: () => VNode;
}

/**
 * Renders again when its signature changes. A component, not a cache of elements: an
 * element that is used again keeps the whole tree alive that it was first a part of.
 */
class Memoized extends Component<MemoizedProps> {
  override shouldComponentUpdate(next: MemoizedProps): boolean {
    return next.signature !== this.props.signature;
  }

  override render(): VNode {
    return this.props.render();
  }
}
