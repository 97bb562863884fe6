import {
  exact,
  formatCount,
  formatDuration,
  formatMoney,
  formatNumber,
} from "../ui/format";
import { Count } from "../ui/figure";
import { Link } from "../ui/link";
import { Panel } from "../ui/panel";
import { Table, type Column } from "../ui/table";
import type { Calls, CustomMetric, ModelCalls, NodeStats } from "./types";

/** Errors by type and phase, also of attempts that were retried. */
export function ErrorTable({ errors }: Pick<NodeStats, "errors">) {
  if (!errors.length) return null;
  return (
    <Panel title="Errors">
      <Table
        id="errors"
        caption="Errors by type and phase"
        columns={ERRORS}
        rows={errors}
        rowKey={({ type, phase }) => `${type} ${phase}`}
        sort="-count"
      />
    </Panel>
  );
}

const ERRORS: readonly Column<NodeStats["errors"][number]>[] = [
  { key: "type", label: "Type", value: (row) => row.type, cell: (row) => row.type },
  { key: "phase", label: "Phase", value: (row) => row.phase, cell: (row) => row.phase },
  {
    key: "count",
    label: "Count",
    value: (row) => row.count,
    cell: (row) => formatCount(row.count),
    title: (row) => exact(row.count),
    isNumeric: true,
  },
];

/** The metrics that the application records in the node. */
export function CustomTable({ custom }: Pick<NodeStats, "custom">) {
  const own = custom.filter(({ name }) => !name.startsWith("llm_"));
  if (!own.length) return null;
  return (
    <Panel title="Custom metrics">
      <Table
        id="custom"
        caption="Custom metrics"
        columns={CUSTOM}
        rows={own}
        rowKey={(row) => JSON.stringify([row.name, row.kind, row.labels])}
        sort="name"
      />
    </Panel>
  );
}

const number = (value: number | null) =>
  formatNumber(value === null ? null : Number(value.toPrecision(4)));

const CUSTOM: readonly Column<CustomMetric>[] = [
  {
    key: "name",
    label: "Metric",
    value: (row) => row.name,
    cell: (row) => (
      <>
        {row.name}{" "}
        <span class="note">
          {Object.entries(row.labels)
            .map(([key, value]) => `${key}=${value}`)
            .join(" ")}
        </span>
      </>
    ),
  },
  {
    key: "value",
    label: "Value",
    value: (row) => mainValue(row),
    cell: (row) => (
      <>
        {number(mainValue(row))} <span class="note">{MEANINGS[row.kind]}</span>
      </>
    ),
    title: (row) => exact(mainValue(row)),
    isNumeric: true,
  },
  {
    key: "p95",
    label: "p95",
    value: (row) => row.p95,
    cell: (row) => (
      <>
        {number(row.p95)} {row.p95 !== null && <Count n={row.count} />}
      </>
    ),
    isNumeric: true,
  },
];

const MEANINGS = { observe: "average", count: "in total", gauge: "last" };

const mainValue = (row: CustomMetric) =>
  ({ observe: row.avg, count: row.sum, gauge: row.last })[row.kind];

/** The models that were called, with tokens, cost and what was wasted. */
export function ModelTable({ models }: Pick<ModelCalls, "models">) {
  return (
    <Table
      id="models"
      caption="Models"
      columns={MODELS}
      rows={models}
      rowKey={({ model }) => model}
      sort="-cost"
    />
  );
}

/** Returns the columns about calls that all tables of calls have. */
export function callColumns<Row extends Calls>(): Column<Row>[] {
  return [
    figure("calls", "Calls", (row) => row.calls, formatCount),
    figure("errors", "Failed", (row) => row.errors, formatCount),
    figure("limited", "Rate limited", (row) => row.rate_limited, formatCount),
    figure("input", "Tokens in", (row) => row.input_tokens, formatCount, true),
    figure("output", "Tokens out", (row) => row.output_tokens, formatCount, true),
    {
      ...figure<Row>("cost", "Cost", (row) => row.cost_usd, formatMoney),
      cell: (row) => (
        <>
          {formatMoney(row.cost_usd)}
          {row.unpriced_calls > 0 && (
            <span class="warning" title="calls of models without a known price">
              {" "}
              + {formatCount(row.unpriced_calls)} unpriced
            </span>
          )}
        </>
      ),
    },
    figure("wasted", "Wasted", (row) => row.wasted_cost_usd, formatMoney),
    {
      ...figure<Row>("p95", "p95", (row) => row.seconds.p95, formatDuration),
      cell: (row) => (
        <>
          {formatDuration(row.seconds.p95)} <Count n={row.seconds.count} />
        </>
      ),
    },
    {
      ...figure<Row>(
        "first",
        "First token p95",
        (row) => row.first_token_seconds.p95,
        formatDuration,
        true,
      ),
      cell: ({ first_token_seconds: { p95, count } }) => (
        <>
          {formatDuration(p95)} {p95 !== null && <Count n={count} />}
        </>
      ),
    },
  ];
}

function figure<Row>(
  key: string,
  label: string,
  value: (row: Row) => number | null,
  format: (value: number | null) => string,
  isMinor = false,
): Column<Row> {
  return {
    key,
    label,
    value,
    cell: (row) => format(value(row)),
    title: (row) => exact(value(row)),
    isNumeric: true,
    isMinor,
  };
}

const MODELS: readonly Column<ModelCalls["models"][number]>[] = [
  {
    key: "model",
    label: "Model",
    value: (row) => row.model,
    cell: (row) => (
      <Link to={{ view: "models", options: { model: row.model } }}>
        {row.model || "unknown"}
      </Link>
    ),
  },
  ...callColumns<ModelCalls["models"][number]>(),
];
