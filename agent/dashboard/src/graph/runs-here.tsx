// The runs in progress that are at a node, with what they have cost so far.
import { agentTime, live } from "../state/live";
import { describeCost, exactCost } from "../runs/words";
import { formatDuration, NONE } from "../ui/format";
import { Link } from "../ui/link";

interface RunsHereProps {
  /** Empty for several. */
  service: string;
  graph: string;
  node: string;
}

const MAX_SHOWN = 5;

/** Those of the event stream, which has the ones in trouble and the longest. */
export function RunsHere({ service, graph, node }: RunsHereProps) {
  const runs = (live.value?.runs ?? []).filter(
    (run) =>
      (!service || run.service === service) && run.graph === graph && run.node === node,
  );
  if (!runs.length) return null;
  return (
    <section>
      <h3>In progress here</h3>
      <ul>
        {runs.slice(0, MAX_SHOWN).map((run) => (
          <li key={`${run.client} ${run.run}`} title={exactCost(run)}>
            <Link
              to={{
                ...{ view: "runs", service: run.service, graph, node: null },
                run: run.run,
              }}
            >
              {run.run}
            </Link>{" "}
            {formatDuration(
              run.start > 0 ? Math.max(0, agentTime.value - run.start) : null,
            )}
            {describeCost(run) !== NONE && ` · ${describeCost(run)} so far`}
            {run.trouble.length > 0 && ` · ${run.trouble.join(", ")}`}
          </li>
        ))}
      </ul>
    </section>
  );
}
