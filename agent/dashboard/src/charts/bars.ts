// Bars with labels as a picture to save; on the page they are elements.
import { resolveColor } from "./colors";

export interface Bar {
  label: string;
  /** The length, from 0 to 1. */
  share: number;
  text: string;
  /** The property with its colour. */
  color: string;
}

const LABEL_WIDTH = 420;
const BAR_WIDTH = 360;
const TEXT_WIDTH = 220;
const PADDING = 8;
const ROW_HEIGHT = 24;
const BAR_HEIGHT = 10;

/** Draws a row for each bar: its label, the bar, and its text. */
export function drawBars(bars: readonly Bar[]): HTMLCanvasElement {
  const scale = devicePixelRatio || 1;
  const canvas = document.createElement("canvas");
  canvas.width = (LABEL_WIDTH + BAR_WIDTH + TEXT_WIDTH + 2 * PADDING) * scale;
  canvas.height = (bars.length * ROW_HEIGHT + PADDING) * scale;
  const context = canvas.getContext("2d")!;
  context.scale(scale, scale);
  context.font = "12px system-ui, sans-serif";
  context.textBaseline = "middle";
  const ink = resolveColor("--ink");
  bars.forEach(({ label, share, text, color }, index) => {
    const middle = (index + 0.5) * ROW_HEIGHT;
    const left = PADDING + LABEL_WIDTH;
    context.fillStyle = ink;
    context.fillText(label, PADDING, middle, LABEL_WIDTH - PADDING);
    context.fillText(text, left + BAR_WIDTH + PADDING, middle, TEXT_WIDTH);
    context.fillStyle = resolveColor(color);
    const width = Math.max(1, share * BAR_WIDTH);
    context.fillRect(left, middle - BAR_HEIGHT / 2, width, BAR_HEIGHT);
  });
  return canvas;
}
