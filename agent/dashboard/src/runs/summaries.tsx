import type { RunEnd, Runs } from "../api/types";
import { formatCount, formatShare } from "../ui/format";
import { Link } from "../ui/link";
import { Empty } from "../ui/panel";
import { graphRoute } from "./name";
import { describeReason, isBadEnd } from "./order";

const MAX_ENDS = 12;

/** How many runs had how many visits. */
export function VisitHistogram({ rows }: { rows: Runs["visits"] }) {
  if (!rows.length) return <Empty title="No run ended in this period." />;
  const most = Math.max(1, ...rows.map(([, , runs]) => runs));
  const total = rows.reduce((sum, [, , runs]) => sum + runs, 0);
  return (
    <table class="bars">
      <thead class="hidden">
        <tr>
          <th scope="col">Visits</th>
          <th scope="col">Runs</th>
        </tr>
      </thead>
      <tbody>
        {rows.map(([least, greatest, runs]) => (
          <tr key={least}>
            <th scope="row">
              {least === greatest ? least : `${least} to ${greatest}`}
            </th>
            <td title={`${runs} runs, ${formatShare(runs / Math.max(1, total))}`}>
              <Bar share={runs / most} /> {formatCount(runs)}
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
    <table class="bars">
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
              {describeReason(end.reason, end.action)} at{" "}
              <Link to={graphRoute(end)}>{end.node}</Link>
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
