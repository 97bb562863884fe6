// Episodes of alerts in words, and as a table.
import { isoTime, type DataTable } from "../charts/data";
import { severityLevel, type Level } from "../ui/badge";
import { formatDuration, formatTime } from "../ui/format";
import type { AlertEpisode, EpisodeList, EpisodeRow } from "./types";

/** Returns "service / graph / node", as far as the alert has these labels. */
export function placeOf({ labels: { service, graph, node } }: EpisodeRow): string {
  return [service, graph, node].filter(Boolean).join(" / ");
}

/** Returns how an episode looks: one that has ended is quiet, whatever its severity. */
export function episodeLevel({ severity }: EpisodeRow, { end }: AlertEpisode): Level {
  return end === null ? severityLevel(severity) : "quiet";
}

/** Returns for how long an alert fired, since when, and why. */
export function describeEpisode(
  { severity }: EpisodeRow,
  { start, end, text }: AlertEpisode,
  now: number,
): string {
  const length = formatDuration(Math.max(0, Math.round((end ?? now) - start)));
  const verb = end === null ? "fires" : "fired";
  return `${severity}: ${verb} for ${length} since ${formatTime(start)}: ${text}`;
}

const PLACE = ["service", "graph", "node"];

/** Returns a row for each episode, the earliest first; other labels are in one column. */
export function episodeTable({ alerts }: EpisodeList, now: number): DataTable {
  const episodes = alerts.flatMap((row) =>
    row.episodes.map((episode) => [row, episode] as const),
  );
  episodes.sort(([, left], [, right]) => left.start - right.start);
  return {
    header: [
      ...["start", "end", "seconds", "rule", "severity"],
      ...[...PLACE, "other labels", "reason"],
    ],
    rows: episodes.map(([{ rule, severity, labels }, { start, end, text }]) => [
      isoTime(start),
      end === null ? "" : isoTime(end),
      Math.round(1000 * Math.max(0, (end ?? now) - start)) / 1000,
      rule,
      severity,
      ...PLACE.map((name) => labels[name] ?? ""),
      Object.entries(labels)
        .filter(([name]) => !PLACE.includes(name))
        .map(([name, value]) => `${name}=${value}`)
        .join(" "),
      text,
    ]),
  };
}
