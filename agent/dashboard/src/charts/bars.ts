// Bars with labels as a picture to save; on the page they are elements.
import { resolveColor } from "./colors";

/** A row of a picture: a label, and bars on one scale from 0 to 1. */
export interface BarRow {
  label: string;
  /** After the label, less prominent. */
  detail?: string;
  bars: readonly Bar[];
  /** After the bars. */
  text?: string;
}

export interface Bar {
  start: number;
  end: number;
  /** The property with its colour. */
  color: string;
  /** The outline of a mark in a square of 16 units; such a bar is drawn around it. */
  mark?: string;
}

/** A line across all rows, with a label below them. */
export interface BarTick {
  at: number;
  label: string;
}

/** The pixels of a bar from 0 to 1, unless it needs more. */
export const BAR_WIDTH = 360;

const MAX_LABEL_WIDTH = 720;
const PADDING = 8;
const ROW_HEIGHT = 26;
const AXIS_HEIGHT = 24;
const BAR_HEIGHT = 10;
const MARK_SIZE = 10;
const MARK_UNITS = 16;
const FONT = "12px system-ui, sans-serif";

/** Draws the rows below each other, and an axis if there are ticks. */
export function drawBars(
  rows: readonly BarRow[],
  barWidth: number,
  ticks: readonly BarTick[] = [],
): HTMLCanvasElement {
  const scale = devicePixelRatio || 1;
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d")!;
  context.font = FONT;
  const widest = (text: (row: BarRow) => string) =>
    Math.ceil(Math.max(0, ...rows.map((row) => context.measureText(text(row)).width)));
  const labels = widest(({ label, detail = "" }) => `${label} ${detail}`);
  const left = Math.min(MAX_LABEL_WIDTH, labels) + 3 * PADDING;
  const texts = widest(({ text = "" }) => text);
  const bottom = rows.length * ROW_HEIGHT;
  canvas.width = (left + barWidth + texts + 2 * PADDING) * scale;
  canvas.height = (bottom + (ticks.length ? AXIS_HEIGHT : PADDING)) * scale;
  context.scale(scale, scale);
  // A canvas forgets its font with a new size.
  context.font = FONT;
  context.textBaseline = "middle";
  drawTicks(context, ticks, bottom, (at) => left + at * barWidth);
  rows.forEach((row, index) => {
    context.save();
    context.translate(0, (index + 0.5) * ROW_HEIGHT);
    drawLabel(context, row, left - PADDING);
    context.translate(left, 0);
    row.bars.forEach((bar) => drawBar(context, bar, barWidth));
    context.fillStyle = resolveColor("--ink");
    context.fillText(row.text ?? "", barWidth + PADDING, 0);
    context.restore();
  });
  return canvas;
}

function drawLabel(
  context: CanvasRenderingContext2D,
  { label, detail = "" }: BarRow,
  width: number,
): void {
  context.save();
  context.beginPath();
  context.rect(0, -ROW_HEIGHT / 2, width, ROW_HEIGHT);
  context.clip();
  context.fillStyle = resolveColor("--ink");
  context.fillText(label, PADDING, 0);
  context.fillStyle = resolveColor("--ink-soft");
  context.fillText(detail, PADDING + context.measureText(`${label} `).width, 0);
  context.restore();
}

function drawBar(
  context: CanvasRenderingContext2D,
  { start, end, color, mark }: Bar,
  barWidth: number,
): void {
  const x = start * barWidth;
  const least = mark === undefined ? 1 : MARK_SIZE + 4;
  const width = Math.max(least, (end - start) * barWidth);
  context.fillStyle = context.strokeStyle = resolveColor(color);
  if (mark === undefined) {
    context.fillRect(x, -BAR_HEIGHT / 2, width, BAR_HEIGHT);
    return;
  }
  const half = MARK_SIZE / 2 + 3;
  context.globalAlpha = 0.22;
  context.fillRect(x, -half, width, 2 * half);
  context.globalAlpha = 0.7;
  context.strokeRect(x + 0.5, 0.5 - half, width - 1, 2 * half - 1);
  context.globalAlpha = 1;
  context.save();
  context.translate(x + 3, -MARK_SIZE / 2);
  context.scale(MARK_SIZE / MARK_UNITS, MARK_SIZE / MARK_UNITS);
  context.fill(new Path2D(mark));
  context.restore();
}

function drawTicks(
  context: CanvasRenderingContext2D,
  ticks: readonly BarTick[],
  bottom: number,
  position: (at: number) => number,
): void {
  context.fillStyle = resolveColor("--ink-soft");
  context.textAlign = "center";
  for (const { at, label } of ticks) {
    context.globalAlpha = 0.25;
    context.fillRect(position(at), 0, 1, bottom);
    context.globalAlpha = 1;
    context.fillText(label, position(at), bottom + AXIS_HEIGHT / 2);
  }
  context.textAlign = "left";
}
