import type { RunEnd, Runs } from "../api/types";
import { formatCount } from "../ui/format";
import { Link } from "../ui/link";
import { Empty } from "../ui/panel";
import { graphRoute } from "./name";
import { describeReason, isBadEnd } from "./order";

const MAX_ENDS = 12;

/** How many nodes the runs of each graph visited. */
export function RunLengths({ rows }: { rows: Runs["visits"] }) {
  if (!rows.length) return <Empty title="No run ended in this period." />;
  const longest = Math.max(1, ...rows.map(({ average, most }) => most ?? average));
  return (
    <table class="bars">
      <thead class="hidden">
        <tr>
          <th scope="col">Graph</th>
          <th scope="col">Visits of a run</th>
        </tr>
      </thead>
      <tbody>
        {rows.map(({ service, graph, runs, average, most }) => (
          <tr key={JSON.stringify([service, graph])}>
            <th scope="row">
              <span class="quiet">{service} / </span>
              {graph}
            </th>
            <td title={`${runs} runs`}>
              <Bar share={average / longest} /> {average.toFixed(1)} on average
              {most !== null && `, at most ${formatCount(most)}`}
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

/** Where and why runs ended, the most frequent first. */
export function EndReasons({ rows }: { rows: RunEnd[] }) {
  if (!rows.length) return <Empty title="No run ended in this period." />;
  const most = Math.max(1, ...rows.map(({ count }) => count));
  return (
    <table class="bars ends">
      <thead class="hidden">
        <tr>
          <th scope="col">Reason</th>
          <th scope="col">Runs</th>
        </tr>
      </thead>
      <tbody>
        {rows.slice(0, MAX_ENDS).map((end) => (
          <tr
            key={JSON.stringify([
              end.service,
              end.graph,
              end.node,
              end.action,
              end.reason,
            ])}
            class={isBadEnd(end) ? "failed" : ""}
          >
            <th scope="row">
              <span class="quiet">
                {end.service} / {end.graph} /{" "}
              </span>
              <Link to={graphRoute(end)}>{end.node}</Link>:{" "}
              {describeReason(end.reason, end.action)}
            </th>
            <td>
              <Bar share={end.count / most} /> {formatCount(end.count)}
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function Bar({ share }: { share: number }) {
  return (
    <svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">
      <rect width={Math.max(1, 100 * share)} height="8" />
    </svg>
  );
}
