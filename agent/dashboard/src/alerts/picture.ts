// The episodes of alerts as a picture to save; on the page they are elements.
import { drawBars } from "../charts/bars";
import { SHAPES, type Level } from "../ui/badge";
import { axisLabel, barPosition, listTicks } from "./axis";
import { episodeLevel, placeOf } from "./episodes";
import type { EpisodeList } from "./types";

const TRACK_WIDTH = 760;

const COLORS: Record<Level, string> = {
  ...{ good: "--good", warning: "--warning", bad: "--bad" },
  ...{ quiet: "--ink-soft", info: "--info" },
};

/** Draws a row for each alert, with its name and a bar for each episode. */
export function drawEpisodes({ alerts, start, end }: EpisodeList): HTMLCanvasElement {
  const rows = alerts.map((row) => ({
    label: row.rule,
    detail: placeOf(row),
    bars: row.episodes.map((episode) => {
      const { left, width } = barPosition(episode, start, end);
      const level = episodeLevel(row, episode);
      return {
        start: left / 100,
        end: (left + width) / 100,
        color: COLORS[level],
        mark: SHAPES[level],
      };
    }),
  }));
  const ticks = listTicks(start, end).map((time) => ({
    at: (time - start) / (end - start),
    label: axisLabel(time, end),
  }));
  return drawBars(rows, TRACK_WIDTH, ticks);
}
