import { BAR_WIDTH, drawBars } from "../charts/bars";
import { ChartPanel } from "../charts/panel";
import { formatDuration, formatShare } from "../ui/format";
import type { NodeStats } from "./types";

const PHASES = [
  ["prep", "--series-1"],
  ["exec", "--series-4"],
  ["wait", "--series-2"],
  ["post", "--series-3"],
] as const;

/** How the time of an execution is divided; nothing for nodes that do not report it. */
export function Phases({ node, stats }: { node: string; stats: NodeStats }) {
  if (stats.avg_exec_time === null) return null;
  const times = PHASES.map(([name, colour]) => ({
    name: name === "wait" ? "wait between attempts" : name,
    colour,
    seconds: stats[`avg_${name}_time`] ?? 0,
  }));
  const total = times.reduce((sum, { seconds }) => sum + seconds, 0);
  let left = 0;
  return (
    <ChartPanel
      title="Where the time goes, on average"
      subject={node}
      hasData={total > 0}
      table={() => ({
        header: ["part", "seconds"],
        rows: times.map(({ name, seconds }) => [name, seconds]),
      })}
      picture={() =>
        drawBars(
          times.map(({ name, colour, seconds }) => ({
            label: name,
            bars: [{ start: 0, end: seconds / total, color: colour }],
            text: formatDuration(seconds),
          })),
          BAR_WIDTH,
        )
      }
    >
      <svg
        class="share-bar"
        viewBox="0 0 100 6"
        preserveAspectRatio="none"
        aria-hidden="true"
      >
        {times.map(({ name, colour, seconds }) => {
          const width = total ? (seconds / total) * 100 : 0;
          left += width;
          return (
            <rect
              key={name}
              x={left - width}
              width={width}
              height="6"
              style={{ fill: `var(${colour})` }}
            />
          );
        })}
      </svg>
      <ul class="shares">
        {times.map(({ name, colour, seconds }) => (
          <li key={name}>
            <Swatch name={colour} /> {name} <b>{formatDuration(seconds)}</b>{" "}
            <span class="note">{formatShare(total ? seconds / total : null)}</span>
          </li>
        ))}
      </ul>
    </ChartPanel>
  );
}

/** A small square in the colour of a part. */
function Swatch({ name }: { name: string }) {
  return (
    <svg class="swatch" viewBox="0 0 10 10" aria-hidden="true">
      <rect width="10" height="10" rx="2" style={{ fill: `var(${name})` }} />
    </svg>
  );
}
