// What is drawn, in absolute coordinates: cards, lines, and frames of nested graphs.
//
// Strategy: an expanded node is as large as the drawing of its graph, which is laid out on
// its own. So each graph keeps its own arrangement wherever it is shown.
import type { LayoutResult } from "./compute";
import type { Direction, Point, Wiring } from "./layout";
import type { GraphEdge, GraphModel, GraphNode } from "./model";
import { CARD_HEIGHT, wiringOf } from "./wiring";

/** A graph, and those inside its expanded nodes. */
export interface GraphTree {
  model: GraphModel;
  children: ReadonlyMap<string, GraphTree>;
}

export interface Box {
  x: number;
  y: number;
  width: number;
  height: number;
}

export interface SceneNode extends Box {
  /** The names of the expanded nodes around it, and its own, as JSON. */
  key: string;
  path: string[];
  model: GraphModel;
  node: GraphNode;
  is_expanded: boolean;
}

export interface SceneEdge {
  key: string;
  model: GraphModel;
  edge: GraphEdge;
  source: SceneNode;
  target: SceneNode;
  /** The data of an SVG path, and of its arrow head. */
  line: string;
  head: string;
  label: Point;
}

export interface Scene {
  width: number;
  height: number;
  direction: Direction;
  nodes: SceneNode[];
  edges: SceneEdge[];
  /** Why the full layout is not shown. */
  reason: string | null;
}

export const FRAME = { padding: 10, header: 30 };

/** Returns the scene of a tree; null until all of its layouts are known. */
export function buildScene(
  tree: GraphTree,
  direction: Direction,
  layouts: (wiring: Wiring) => LayoutResult | null,
): Scene | null {
  const inner = new Map<string, Scene>();
  for (const [node, child] of tree.children) {
    const scene = buildScene(child, direction, layouts);
    if (!scene) return null;
    inner.set(node, scene);
  }
  const sizes = new Map([...inner].map(([node, scene]) => [node, frameSize(scene)]));
  const result = layouts(wiringOf(tree.model, direction, sizes));
  if (!result) return null;
  const nodes = tree.model.nodes.map((node, index): SceneNode => {
    const [x, y] = result.layout.nodes[index]!;
    const [width, height] =
      sizes.get(node.node) ?? cardSize(node, tree.model, direction);
    return {
      ...{ x: x - width / 2, y: y - height / 2, width, height },
      key: pathKey([node.node]),
      path: [node.node],
      model: tree.model,
      node,
      is_expanded: inner.has(node.node),
    };
  });
  const edges = drawEdges(tree.model, nodes, result, direction);
  const { width, height } = result.layout;
  const scene = { width, height, direction, nodes, edges, reason: result.reason };
  for (const [node, child] of inner) {
    const frame = nodes.find((each) => each.node.node === node);
    if (frame) insert(scene, child, frame);
  }
  return scene;
}

/** Returns the key of a node from the names on the way to it. */
export function pathKey(path: readonly string[]): string {
  return JSON.stringify(path);
}

function frameSize(scene: Scene): [width: number, height: number] {
  return [
    Math.round(scene.width + 2 * FRAME.padding),
    Math.round(scene.height + FRAME.header + FRAME.padding),
  ];
}

function cardSize(
  node: GraphNode,
  model: GraphModel,
  direction: Direction,
): [width: number, height: number] {
  const slot = wiringOf({ ...model, nodes: [node], edges: [] }, direction).nodes[0]!;
  const growth = (CARD_HEIGHT.max - CARD_HEIGHT.min) * Math.sqrt(node.time_share);
  return [slot[0], CARD_HEIGHT.min + growth];
}

function insert(scene: Scene, child: Scene, frame: SceneNode): void {
  const by: Point = [frame.x + FRAME.padding, frame.y + FRAME.header];
  const moved = new Map(
    child.nodes.map((node) => {
      const path = [...frame.path, ...node.path];
      const at = { x: node.x + by[0], y: node.y + by[1] };
      return [node, { ...node, ...at, path, key: pathKey(path) }];
    }),
  );
  scene.nodes.push(...moved.values());
  for (const edge of child.edges) {
    const source = moved.get(edge.source)!;
    const target = moved.get(edge.target)!;
    scene.edges.push({
      ...edge,
      ...{ key: edgeKey(source, target), source, target },
      line: movePath(edge.line, by),
      head: movePath(edge.head, by),
      label: [edge.label[0] + by[0], edge.label[1] + by[1]],
    });
  }
  scene.reason ??= child.reason;
}

// All commands of our paths are absolute, and followed by pairs of coordinates.
function movePath(path: string, by: Point): string {
  let isY = true;
  return path.replace(/-?[\d.]+/g, (number) => {
    isY = !isY;
    return String(round(Number(number) + by[isY ? 1 : 0]));
  });
}

const edgeKey = (source: SceneNode, target: SceneNode) =>
  JSON.stringify([source.path, target.path]);

function drawEdges(
  model: GraphModel,
  nodes: SceneNode[],
  { layout }: LayoutResult,
  direction: Direction,
): SceneEdge[] {
  const byName = new Map(nodes.map((node) => [node.node.node, node]));
  return model.edges.map((edge, index) => {
    const source = byName.get(edge.source)!;
    const target = byName.get(edge.target)!;
    const { points, label } = layout.edges[index]!;
    const leadsBack = isBefore(target, source, direction);
    const drawn =
      layout.method === "layers" && leadsBack
        ? drawArc(source, target, direction)
        : drawLine(points, source, target, direction, leadsBack);
    const key = edgeKey(source, target);
    return { key, model, edge, source, target, label, ...drawn };
  });
}

function isBefore(a: Box, b: Box, direction: Direction): boolean {
  return direction === "down" ? a.y + a.height <= b.y : a.x + a.width <= b.x;
}

/** Draws a smooth line through points, from the side of one card to that of another. */
function drawLine(
  points: readonly Point[],
  source: Box,
  target: Box,
  direction: Direction,
  leadsBack: boolean,
): { line: string; head: string } {
  const isDown = direction === "down";
  const start = sideOf(source, direction, leadsBack, points[1]!);
  const end = sideOf(target, direction, !leadsBack, points[points.length - 2]!);
  const tip: Point = isDown
    ? [end[0], end[1] + (leadsBack ? HEAD : -HEAD)]
    : [end[0] + (leadsBack ? HEAD : -HEAD), end[1]];
  const between = points
    .slice(1, -1)
    .filter((point) => isBetween(point, start, tip, isDown));
  let [x, y] = start;
  let line = `M${pair(x, y)}`;
  for (const [nextX, nextY] of [...between, tip]) {
    const middle = isDown ? (y + nextY) / 2 : (x + nextX) / 2;
    line += isDown
      ? `C${pair(x, middle)} ${pair(nextX, middle)} ${pair(nextX, nextY)}`
      : `C${pair(middle, y)} ${pair(middle, nextY)} ${pair(nextX, nextY)}`;
    [x, y] = [nextX, nextY];
  }
  return { line, head: drawHead(tip, end) };
}

// In the layout, lines leave a card anywhere on its border; ours leave it at one side.
function isBetween(point: Point, start: Point, end: Point, isDown: boolean): boolean {
  const axis = isDown ? 1 : 0;
  const low = Math.min(start[axis], end[axis]);
  return point[axis] > low && point[axis] < Math.max(start[axis], end[axis]);
}

/** Draws a line back below (or beside) the cards. */
function drawArc(source: Box, target: Box, direction: Direction) {
  const isDown = direction === "down";
  const from: Point = isDown
    ? [source.x + source.width, source.y + source.height / 2]
    : [source.x + source.width / 2, source.y + source.height];
  const to: Point = isDown
    ? [target.x + target.width, target.y + target.height / 2]
    : [target.x + target.width / 2, target.y + target.height];
  const axis = isDown ? 0 : 1;
  const far = Math.max(from[axis], to[axis]) + 48;
  const tip: Point = isDown ? [to[0] + HEAD, to[1]] : [to[0], to[1] + HEAD];
  const line = isDown
    ? `M${pair(...from)}C${pair(far, from[1])} ${pair(far, tip[1])} ${pair(...tip)}`
    : `M${pair(...from)}C${pair(from[0], far)} ${pair(tip[0], far)} ${pair(...tip)}`;
  return { line, head: drawHead(tip, to) };
}

const HEAD = 9;

function drawHead([x, y]: Point, [endX, endY]: Point): string {
  const half = HEAD * 0.55;
  const isLevel = y === endY;
  const a: Point = isLevel ? [x, y - half] : [x - half, y];
  const b: Point = isLevel ? [x, y + half] : [x + half, y];
  return `M${pair(...a)}L${pair(endX, endY)}L${pair(...b)}Z`;
}

// Edges leave a side apart from each other, towards where they go.
const SPREAD = 15;

function sideOf(box: Box, direction: Direction, isFirst: boolean, next: Point): Point {
  const spread = (size: number, offset: number) =>
    Math.max(-SPREAD, Math.min(SPREAD, offset / 3, size / 2));
  const x = box.x + box.width / 2;
  const y = box.y + box.height / 2;
  return direction === "down"
    ? [x + spread(box.width, next[0] - x), isFirst ? box.y : box.y + box.height]
    : [isFirst ? box.x : box.x + box.width, y + spread(box.height, next[1] - y)];
}

const round = (value: number) => Math.round(value * 10) / 10;
const pair = (x: number, y: number) => `${round(x)} ${round(y)}`;

/** Returns the keys of the nodes that are part of a loop. */
export function nodesInLoops(scene: Scene): Set<string> {
  const keys = new Set<string>();
  for (const { edge, source, target } of scene.edges) {
    if (edge.is_back_edge) keys.add(source.key).add(target.key);
  }
  for (const node of scene.nodes) if (node.node.repeats) keys.add(node.key);
  return keys;
}

export type Arrow = "left" | "right" | "up" | "down";
const STEPS: Record<Arrow, Point> = {
  left: [-1, 0],
  right: [1, 0],
  up: [0, -1],
  down: [0, 1],
};

/**
 * Returns the node that an arrow key leads to: a neighbour along an edge that lies in that
 * direction, else the nearest node that does.
 */
export function nodeTowards(
  scene: Scene,
  from: SceneNode,
  arrow: Arrow,
): SceneNode | null {
  const neighbours = scene.edges.flatMap(({ source, target }) =>
    source.key === from.key ? [target] : target.key === from.key ? [source] : [],
  );
  return nearest(neighbours, from, arrow) ?? nearest(scene.nodes, from, arrow);
}

function nearest(nodes: SceneNode[], from: SceneNode, arrow: Arrow): SceneNode | null {
  const [stepX, stepY] = STEPS[arrow];
  let best: SceneNode | null = null;
  let least = Infinity;
  for (const node of nodes) {
    if (node.key === from.key) continue;
    const dx = node.x + node.width / 2 - from.x - from.width / 2;
    const dy = node.y + node.height / 2 - from.y - from.height / 2;
    const ahead = dx * stepX + dy * stepY;
    const aside = Math.abs(dx * stepY) + Math.abs(dy * stepX);
    if (ahead <= 1 || aside > 4 * ahead) continue;
    if (ahead + 2 * aside < least) {
      best = node;
      least = ahead + 2 * aside;
    }
  }
  return best;
}

/** What part of a scene is seen: `scale` is in pixels per unit, `x` and `y` in pixels. */
export interface Viewport {
  x: number;
  y: number;
  scale: number;
}

const MAX_FIT = 1.6;

/** Returns the viewport that shows all of a scene. */
export function fit(
  scene: Pick<Scene, "width" | "height">,
  width: number,
  height: number,
) {
  const scale = Math.min(
    MAX_FIT,
    width / Math.max(1, scene.width),
    height / Math.max(1, scene.height),
  );
  return {
    x: (width - scene.width * scale) / 2,
    y: (height - scene.height * scale) / 2,
    scale,
  };
}

const SCALES = { min: 0.02, max: 4 };

/** Returns the viewport after a zoom by `factor` that keeps the point (x, y) in place. */
export function zoom(view: Viewport, factor: number, x: number, y: number): Viewport {
  const scale = Math.min(SCALES.max, Math.max(SCALES.min, view.scale * factor));
  const ratio = scale / view.scale;
  return { x: x - (x - view.x) * ratio, y: y - (y - view.y) * ratio, scale };
}
