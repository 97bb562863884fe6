import { NodeCharts } from "../node/charts";
import { RecentFailures } from "../node/failures";
import { NodeChoice } from "../node/list";
import { Phases } from "../node/phases";
import { CustomTable, ErrorTable, ModelTable } from "../node/tables";
import "../node/node.css";
import type { ModelCalls, NodeStats } from "../node/types";
import { agentTime, coveredSeconds } from "../state/live";
import { useRequest } from "../state/polled";
import { route } from "../state/route";
import { Figure } from "../ui/figure";
import {
  exact,
  formatAge,
  formatCount,
  formatDuration,
  formatMoney,
  formatPlural,
  formatRate,
  formatShare,
} from "../ui/format";
import { ErrorNotice, Panel, Skeleton } from "../ui/panel";

const REFRESH_SECONDS = 5;

/** The node that the address names, or all nodes. */
export function NodeView() {
  const { node } = route.value;
  if (node !== null) return <SelectedNode node={node} />;
  return (
    <section class="node-view">
      <h1>Nodes</h1>
      <NodeChoice />
    </section>
  );
}

/** One node: figures, charts over time, errors, models and recent failures. */
function SelectedNode({ node }: { node: string }) {
  const { service, graph, window, end } = route.value;
  const period = { service, graph, window, end };
  const every = end === null ? REFRESH_SECONDS : null;
  const { value: stats, error } = useRequest<NodeStats>(
    `/api/v1/nodes/${encodeURIComponent(node)}/stats`,
    period,
    every,
  );
  const calls = useRequest<ModelCalls>("/api/v1/llm", { ...period, node }, every);
  return (
    <section class="node-view">
      <h1>{node}</h1>
      {error && <ErrorNotice error={error} />}
      {stats ? (
        <Summary stats={stats} calls={calls.value} />
      ) : (
        !error && <Skeleton lines={3} />
      )}
      <NodeCharts node={node} />
      {stats && (
        <div class="columns">
          <Phases node={node} stats={stats} />
          <ErrorTable errors={stats.errors} />
          <CustomTable custom={stats.custom} />
        </div>
      )}
      {calls.value && calls.value.models.length > 0 && (
        <Panel title="Models" class="wide">
          <ModelTable models={calls.value.models} />
        </Panel>
      )}
      <RecentFailures />
    </section>
  );
}

function Summary({ stats, calls }: { stats: NodeStats; calls: ModelCalls | null }) {
  const n = stats.total_executions;
  const { ok, error, suppressed, fallback, cancelled } = stats.outcomes;
  const hidden = suppressed + fallback;
  return (
    <dl class="figures">
      <Figure
        label={`Executions, ${route.value.window}`}
        exact={`${formatPlural(n, "execution")}; each is one attempt or more`}
        note={formatRate(n / coveredSeconds(route.value))}
      >
        {formatCount(n)}
      </Figure>
      <Figure
        label="Success"
        n={n}
        exact={`${ok} ok, ${error} failed, ${cancelled} cancelled`}
      >
        {formatShare(stats.success_rate)}
      </Figure>
      <Figure label="p50" n={n} exact={exact(stats.p50_execution_time, "s")}>
        {formatDuration(stats.p50_execution_time)}
      </Figure>
      <Figure label="p95" n={n} exact={exact(stats.p95_execution_time, "s")}>
        {formatDuration(stats.p95_execution_time)}
      </Figure>
      <Figure label="Slowest" exact={exact(stats.max_execution_time, "s")}>
        {formatDuration(stats.max_execution_time)}
      </Figure>
      <Figure
        label="Retries"
        exact={`${formatPlural(stats.total_retries, "attempt")} after the first of an execution`}
        note={`${formatShare(stats.retry_rate)} of attempts`}
      >
        {formatCount(stats.total_retries)}
      </Figure>
      <Figure
        label="Fallbacks"
        exact={`${fallback} answered by a fallback, ${suppressed} suppressed by on_error`}
      >
        <span class={hidden ? "warning" : ""}>{formatCount(hidden)}</span>
      </Figure>
      {calls !== null && calls.totals.calls > 0 && (
        <Figure
          label="Cost"
          exact={exact(calls.totals.cost_usd, "USD")}
          note={`${formatMoney(calls.totals.wasted_cost_usd)} wasted`}
        >
          {formatMoney(calls.totals.cost_usd)}
        </Figure>
      )}
      <Figure label="Last execution">
        {formatAge(stats.last_execution, agentTime.value)}
      </Figure>
      <Figure label="Completeness" exact="the share of recorded events that arrived">
        {formatShare(stats.completeness)}
      </Figure>
    </dl>
  );
}
