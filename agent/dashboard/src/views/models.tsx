import { useQuery } from "../charts/query";
import { Breakdown, Lines } from "../node/charts";
import { callColumns, ModelTable } from "../node/tables";
import "../node/node.css";
import type { ModelCalls } from "../node/types";
import { useRequest } from "../state/polled";
import { navigate, route } from "../state/route";
import { Figure } from "../ui/figure";
import {
  exact,
  formatCount,
  formatDuration,
  formatMoney,
  formatShare,
} from "../ui/format";
import { Link } from "../ui/link";
import { Empty, ErrorNotice, Panel, Skeleton } from "../ui/panel";
import { Table, type Column } from "../ui/table";

const REFRESH_SECONDS = 5;

/** Calls of language models: cost over time, waste, limits and latency. */
export function ModelsView() {
  const { service, graph, node, window, end, options } = route.value;
  const { value, error } = useRequest<ModelCalls>(
    "/api/v1/llm",
    { service, graph, node, window, end },
    end === null ? REFRESH_SECONDS : null,
  );
  return (
    <section class="models-view">
      <h1>Models</h1>
      {error && <ErrorNotice error={error} />}
      {value === null ? (
        !error && <Skeleton lines={6} />
      ) : value.totals.calls === 0 ? (
        <NoCalls />
      ) : (
        <>
          <Summary {...value} />
          {options.model && (
            <p>
              Charts of the model <b>{options.model}</b>.{" "}
              <Link to={{ options: {} }}>Show all models</Link>
            </p>
          )}
          <CallCharts model={options.model ?? null} />
          <Panel title="Models" class="wide">
            <ModelTable models={value.models} />
          </Panel>
          <Panel title="Nodes" class="wide">
            <Table
              id="callers"
              caption="Nodes that call models"
              columns={NODES}
              rows={value.nodes}
              rowKey={(row) => JSON.stringify([row.service, row.graph, row.node])}
              sort="-cost"
            />
          </Panel>
        </>
      )}
    </section>
  );
}

function NoCalls() {
  return (
    <Empty title="No model was called in this period.">
      <p>
        Calls with the SDKs of OpenAI and Anthropic are recorded by{" "}
        <code>kaywatch.instrument()</code>; others with{" "}
        <code>kaywatch.record_llm(model=…, input_tokens=…, output_tokens=…)</code>.
      </p>
    </Empty>
  );
}

function Summary({ totals }: ModelCalls) {
  const wasted = totals.cost_usd > 0 ? totals.wasted_cost_usd / totals.cost_usd : null;
  return (
    <dl class="figures">
      <Figure
        label="Cost"
        exact={exact(totals.cost_usd, "USD")}
        note={
          totals.unpriced_calls > 0
            ? `without ${formatCount(totals.unpriced_calls)} unpriced calls`
            : null
        }
      >
        {formatMoney(totals.cost_usd)}
      </Figure>
      <Figure
        label="Wasted"
        exact={`${exact(totals.wasted_cost_usd, "USD")} spent on failed attempts`}
        note={`${formatShare(wasted)} of the cost`}
      >
        {formatMoney(totals.wasted_cost_usd)}
      </Figure>
      <Figure
        label="Per run"
        n={totals.per_run.cost_usd.count}
        exact={exact(totals.per_run.cost_usd.avg, "USD")}
      >
        {formatMoney(totals.per_run.cost_usd.avg)}
      </Figure>
      <Figure label="Calls" exact={exact(totals.calls)}>
        {formatCount(totals.calls)}
      </Figure>
      <Figure label="Failed" exact={exact(totals.errors)}>
        {formatCount(totals.errors)}
      </Figure>
      <Figure label="Rate limited" exact={exact(totals.rate_limited)}>
        {formatCount(totals.rate_limited)}
      </Figure>
      <Figure
        label="Tokens in"
        exact={exact(totals.input_tokens, "tokens")}
        note={`${formatShare(
          totals.input_tokens > 0 ? totals.cached_tokens / totals.input_tokens : null,
        )} cached`}
      >
        {formatCount(totals.input_tokens)}
      </Figure>
      <Figure label="Tokens out" exact={exact(totals.output_tokens, "tokens")}>
        {formatCount(totals.output_tokens)}
      </Figure>
      <Figure
        label="p95"
        n={totals.seconds.count}
        exact={exact(totals.seconds.p95, "s")}
      >
        {formatDuration(totals.seconds.p95)}
      </Figure>
      <Figure
        label="First token p95"
        n={totals.first_token_seconds.count}
        exact={exact(totals.first_token_seconds.p95, "s")}
      >
        {formatDuration(totals.first_token_seconds.p95)}
      </Figure>
    </dl>
  );
}

const GROUPINGS = ["model", "node", "service"] as const;

function CallCharts({ model }: { model: string | null }) {
  const { service, graph, node, options } = route.value;
  const by = GROUPINGS.find((name) => name === options.by) ?? "model";
  const scope = { service, graph, node, model };
  const wasted = useQuery("wasted_cost", scope);
  const limited = useQuery("rate_limited", scope);
  const failed = useQuery("call_errors", scope);
  const answer = useQuery("call_p95", scope);
  const first = useQuery("first_token_p95", scope);
  const subject = model ?? "all models";
  return (
    <>
      <p class="choice" role="group" aria-label="Divide the cost by">
        Cost by
        {GROUPINGS.map((name) => (
          <button
            key={name}
            type="button"
            aria-pressed={name === by}
            onClick={() => navigate({ options: { ...options, by: name } }, true)}
          >
            {name}
          </button>
        ))}
      </p>
      <div class="charts">
        <Breakdown
          key={by}
          title={`Cost by ${by}`}
          subject={subject}
          scope={scope}
          by={by}
          metric="cost"
          unit="usd"
        />
        <Lines
          title="Wasted cost"
          subject={subject}
          unit="usd"
          lines={{ "failed attempts": wasted }}
          none="Nothing was spent on failed attempts in this period."
        />
        <Lines
          title="Failed and rate-limited calls"
          subject={subject}
          unit="calls"
          lines={{ failed, "rate limited": limited }}
          none="No call failed in this period."
        />
        <Lines
          title="Time to answer, p95"
          subject={subject}
          unit="seconds"
          lines={{ "whole answer": answer, "first token": first }}
        />
      </div>
    </>
  );
}

const NODES: readonly Column<ModelCalls["nodes"][number]>[] = [
  {
    key: "node",
    label: "Node",
    value: (row) => `${row.service} ${row.graph} ${row.node}`,
    cell: ({ service, graph, node }) => (
      <>
        <span class="quiet">{service} / </span>
        {node ? (
          <Link to={{ view: "node", service, graph, node }}>
            {graph} / {node}
          </Link>
        ) : (
          "outside any node"
        )}
      </>
    ),
  },
  ...callColumns<ModelCalls["nodes"][number]>(),
];
