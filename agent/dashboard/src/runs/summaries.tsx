import type { RunEnd, Runs } from "../api/types";
import { BAR_WIDTH, drawBars } from "../charts/bars";
import { ChartPanel } from "../charts/panel";
import { formatCount, formatPlural } from "../ui/format";
import { Link } from "../ui/link";
import { Empty } from "../ui/panel";
import { graphRoute } from "./name";
import { describeReason, isBadEnd } from "./order";

const MAX_ENDS = 12;

interface RunLengthsProps {
  subject: string;
  rows: Runs["visits"];
}

/** How many nodes the runs of each graph visited. */
export function RunLengths({ subject, rows }: RunLengthsProps) {
  const longest = Math.max(1, ...rows.map(({ average, most }) => most ?? average));
  return (
    <ChartPanel
      title="Visits per run"
      subject={subject}
      hasData={rows.length > 0}
      table={() => ({
        header: ["service", "graph", "runs", "visits on average", "visits at most"],
        rows: rows.map((row) => [
          ...[row.service, row.graph, row.runs, row.average, row.most],
        ]),
      })}
      picture={() =>
        drawBars(
          rows.map((row) => ({
            label: `${row.service} / ${row.graph}`,
            bars: [{ start: 0, end: row.average / longest, color: "--accent" }],
            text: visitsText(row),
          })),
          BAR_WIDTH,
        )
      }
    >
      {!rows.length && <Empty title="No run ended in this period." />}
      <table class="bars">
        <thead class="hidden">
          <tr>
            <th scope="col">Graph</th>
            <th scope="col">Visits of a run</th>
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={JSON.stringify([row.service, row.graph])}>
              <th scope="row">
                <span class="quiet">{row.service} / </span>
                {row.graph}
              </th>
              <td title={formatPlural(row.runs, "run")}>
                <BarShape share={row.average / longest} />{" "}
                <span class="bar-text">{visitsText(row)}</span>
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </ChartPanel>
  );
}

function visitsText({ average, most }: Runs["visits"][number]): string {
  const text = `${average.toFixed(1)} on average`;
  return most === null ? text : `${text}, at most ${formatCount(most)}`;
}

interface EndReasonsProps {
  subject: string;
  rows: readonly RunEnd[];
}

/** Where and why runs ended, the most frequent first. */
export function EndReasons({ subject, rows }: EndReasonsProps) {
  const most = Math.max(1, ...rows.map(({ count }) => count));
  const shown = rows.slice(0, MAX_ENDS);
  return (
    <ChartPanel
      title="Why runs ended"
      subject={subject}
      hasData={rows.length > 0}
      table={() => ({
        header: ["service", "graph", "node", "reason", "action", "runs"],
        rows: rows.map((row) => [
          ...[row.service, row.graph, row.node, row.reason, row.action, row.count],
        ]),
      })}
      picture={() =>
        drawBars(
          shown.map((end) => ({
            label: `${end.service} / ${end.graph} / ${end.node}: ${describeReason(end.reason, end.action)}`,
            bars: [
              {
                start: 0,
                end: end.count / most,
                color: isBadEnd(end) ? "--bad" : "--accent",
              },
            ],
            text: formatCount(end.count),
          })),
          BAR_WIDTH,
        )
      }
    >
      {!rows.length && <Empty title="No run ended in this period." />}
      <table class="bars ends">
        <thead class="hidden">
          <tr>
            <th scope="col">Reason</th>
            <th scope="col">Runs</th>
          </tr>
        </thead>
        <tbody>
          {shown.map((end) => (
            <EndRow
              key={JSON.stringify([
                ...[end.service, end.graph, end.node, end.action, end.reason],
              ])}
              end={end}
              share={end.count / most}
            />
          ))}
        </tbody>
      </table>
      {rows.length > MAX_ENDS && (
        <p class="quiet">{rows.length - MAX_ENDS} rarer ones are in the table.</p>
      )}
    </ChartPanel>
  );
}

function EndRow({ end, share }: { end: RunEnd; share: number }) {
  return (
    <tr class={isBadEnd(end) ? "failed" : ""}>
      <th scope="row">
        <span class="quiet">
          {end.service} / {end.graph} /{" "}
        </span>
        <Link to={graphRoute(end)}>{end.node}</Link>:{" "}
        {describeReason(end.reason, end.action)}
      </th>
      <td>
        <BarShape share={share} /> {formatCount(end.count)}
      </td>
    </tr>
  );
}

function BarShape({ share }: { share: number }) {
  return (
    <svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">
      <rect width={Math.max(1, 100 * share)} height="8" />
    </svg>
  );
}
