// The wiring of a graph: sizes of nodes and labels, as the layout needs them.
import type { Direction, Wiring } from "./layout";
import type { GraphEdge, GraphModel } from "./model";

// Sizes in the drawing. A node's slot is as high as the largest card, so that a card that
// grows with the time spent in it moves nothing.
export const CARD_HEIGHT = { min: 54, max: 78 };
export const CHARACTER = 8;
const CARD_WIDTH = { min: 204, max: 256 };
export const LABEL_CHARACTER = 6.4;
export const LABEL_LINE = 15;
export const MAX_LABEL_LINES = 3;
export const MAX_LABEL = 18;

/** Returns the wiring of a graph; `sizes` are those of expanded nodes. */
export function wiringOf(
  model: GraphModel,
  direction: Direction,
  sizes: ReadonlyMap<string, readonly [number, number]> = new Map(),
): Wiring {
  const index = new Map(model.nodes.map(({ node }, position) => [node, position]));
  return {
    direction,
    nodes: model.nodes.map(({ node }) => {
      const [width, height] = sizes.get(node) ?? [cardWidth(node), CARD_HEIGHT.max];
      return [Math.round(width), Math.round(height)];
    }),
    edges: model.edges.map((edge) => [
      index.get(edge.source)!,
      index.get(edge.target)!,
      ...labelSize(edge),
    ]),
  };
}

function cardWidth(name: string): number {
  const width = 46 + CHARACTER * textWidth(name);
  return Math.min(CARD_WIDTH.max, Math.max(CARD_WIDTH.min, width));
}

// Room for the largest figures, so that figures change no size.
function labelSize({ actions, is_plain }: GraphEdge): [width: number, height: number] {
  if (is_plain) return [Math.round("99.9k".length * LABEL_CHARACTER), 2 * LABEL_LINE];
  const longest = Math.max(...actions.map(({ action }) => textWidth(action)));
  const characters = Math.min(MAX_LABEL, longest) + " 100 %".length;
  // One more: what the comparison or a back edge adds.
  const lines = Math.min(MAX_LABEL_LINES, actions.length) + 1;
  return [Math.round(characters * LABEL_CHARACTER), lines * LABEL_LINE + 4];
}

/** Returns the width of a text in Latin characters; others are about twice as wide. */
export function textWidth(text: string): number {
  let width = 0;
  for (const char of text) width += char.codePointAt(0)! >= 0x1100 ? 2 : 1;
  return width;
}

/** Returns a text that is at most `limit` Latin characters wide. */
export function truncate(text: string, limit: number): string {
  if (textWidth(text) <= limit) return text;
  let result = "";
  let width = 1;
  for (const char of text) {
    width += textWidth(char);
    if (width > limit) break;
    result += char;
  }
  return `${result}…`;
}
