// The episodes of alerts as a picture to save; on the page they are elements.
import { resolveColor } from "../charts/colors";
import { SHAPES, type Level } from "../ui/badge";
import { axisLabel, barPosition, listTicks } from "./axis";
import { episodeLevel, placeOf } from "./episodes";
import type { EpisodeList, EpisodeRow } from "./types";

const MAX_NAME_WIDTH = 720;
const TRACK_WIDTH = 760;
const PADDING = 8;
const ROW_HEIGHT = 26;
const AXIS_HEIGHT = 24;
const BAR_HEIGHT = 16;
// The marks of a status are drawn in a square of this size.
const MARK = 16;
const FONT = "12px system-ui, sans-serif";

const COLORS: Record<Level, string> = {
  ...{ good: "--good", warning: "--warning", bad: "--bad" },
  ...{ quiet: "--ink-soft", info: "--info" },
};

/** Draws a row for each alert, with its name and a bar for each episode. */
export function drawEpisodes(list: EpisodeList): HTMLCanvasElement {
  const scale = devicePixelRatio || 1;
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d")!;
  context.font = FONT;
  const left = trackStart(context, list.alerts);
  canvas.width = (left + TRACK_WIDTH + PADDING) * scale;
  canvas.height = (list.alerts.length * ROW_HEIGHT + AXIS_HEIGHT) * scale;
  context.scale(scale, scale);
  // A canvas forgets its font with a new size.
  context.font = FONT;
  context.textBaseline = "middle";
  drawAxis(context, list, left);
  list.alerts.forEach((row, index) => {
    context.save();
    context.translate(0, index * ROW_HEIGHT);
    drawName(context, row, left);
    for (const episode of row.episodes) {
      const bar = barPosition(episode, list.start, list.end);
      drawBar(context, episodeLevel(row, episode), trackX(left, bar.left), bar.width);
    }
    context.restore();
  });
  return canvas;
}

/** Returns where the bars begin: after the longest name. */
function trackStart(
  context: CanvasRenderingContext2D,
  rows: readonly EpisodeRow[],
): number {
  const widths = rows.map(
    (row) => context.measureText(`${row.rule} ${placeOf(row)}`).width,
  );
  return Math.min(MAX_NAME_WIDTH, Math.max(...widths)) + 3 * PADDING;
}

const trackX = (left: number, percent: number) => left + (percent / 100) * TRACK_WIDTH;

function drawName(
  context: CanvasRenderingContext2D,
  row: EpisodeRow,
  left: number,
): void {
  context.save();
  context.beginPath();
  context.rect(0, 0, left - PADDING, ROW_HEIGHT);
  context.clip();
  context.fillStyle = resolveColor("--ink");
  context.fillText(row.rule, PADDING, ROW_HEIGHT / 2);
  const { width } = context.measureText(`${row.rule} `);
  context.fillStyle = resolveColor("--ink-soft");
  context.fillText(placeOf(row), PADDING + width, ROW_HEIGHT / 2);
  context.restore();
}

function drawBar(
  context: CanvasRenderingContext2D,
  level: Level,
  x: number,
  percent: number,
): void {
  const width = Math.max(MARK - 2, (percent / 100) * TRACK_WIDTH);
  const top = (ROW_HEIGHT - BAR_HEIGHT) / 2;
  context.fillStyle = context.strokeStyle = resolveColor(COLORS[level]);
  context.globalAlpha = 0.22;
  context.fillRect(x, top, width, BAR_HEIGHT);
  context.globalAlpha = 0.7;
  context.strokeRect(x + 0.5, top + 0.5, width - 1, BAR_HEIGHT - 1);
  context.globalAlpha = 1;
  context.save();
  context.translate(x + 3, top + 3);
  context.scale(10 / MARK, 10 / MARK);
  context.fill(new Path2D(SHAPES[level]));
  context.restore();
}

function drawAxis(
  context: CanvasRenderingContext2D,
  list: EpisodeList,
  left: number,
): void {
  const bottom = list.alerts.length * ROW_HEIGHT;
  context.fillStyle = resolveColor("--ink-soft");
  context.textAlign = "center";
  for (const time of listTicks(list.start, list.end)) {
    const x = trackX(left, (100 * (time - list.start)) / (list.end - list.start));
    context.globalAlpha = 0.25;
    context.fillRect(x, 0, 1, bottom);
    context.globalAlpha = 1;
    context.fillText(axisLabel(time, list.end), x, bottom + AXIS_HEIGHT / 2);
  }
  context.textAlign = "left";
}
