// What is drawn under and over the lines: episodes of alerts, and a rule's threshold.
import type uPlot from "uplot";
import { resolveColor } from "./colors";
import { episodeSpan, type Episode } from "./data";

/** Draws the episodes behind the lines, with a bar at the top edge. */
export function drawEpisodes(chart: uPlot, episodes: readonly Episode[]): void {
  const { min, max } = chart.scales.x ?? {};
  if (min === undefined || max === undefined || min === null || max === null) return;
  const { left, top, width, height } = chart.bbox;
  const { ctx } = chart;
  ctx.save();
  ctx.fillStyle = resolveColor("--bad");
  for (const episode of episodes) {
    const span = episodeSpan(episode, [min, max], width);
    if (!span) continue;
    ctx.globalAlpha = 0.12;
    ctx.fillRect(left + span.x, top, span.width, height);
    ctx.globalAlpha = 1;
    ctx.fillRect(left + span.x, top, span.width, 3 * devicePixelRatio);
  }
  ctx.restore();
}

/** Draws a dashed line at the threshold. */
export function drawThreshold(chart: uPlot, threshold: number | null): void {
  if (threshold === null) return;
  const y = chart.valToPos(threshold, "y", true);
  const { left, width } = chart.bbox;
  const { ctx } = chart;
  ctx.save();
  ctx.strokeStyle = resolveColor("--bad");
  ctx.setLineDash([6 * devicePixelRatio, 4 * devicePixelRatio]);
  ctx.lineWidth = 1.5 * devicePixelRatio;
  ctx.beginPath();
  ctx.moveTo(left, y);
  ctx.lineTo(left + width, y);
  ctx.stroke();
  ctx.restore();
}
