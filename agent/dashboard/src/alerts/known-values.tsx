import { formatValue } from "../charts/units";
import { exact, formatCount, formatTime } from "../ui/format";
import { Table, type Column } from "../ui/table";

/** A value that was noted at some time; `time` null: it is the present one. */
export interface KnownValue {
  time: number | null;
  what: string;
  value: number | null;
  threshold: number | null;
  executions: number;
}

interface KnownValuesProps {
  title: string;
  unit: string;
  values: readonly KnownValue[];
  /** Why there is no line. */
  reason: string;
}

/** Stands in place of a chart: all values that are known, and why they are no line. */
export function KnownValues({ title, unit, values, reason }: KnownValuesProps) {
  return (
    <figure class="chart" aria-label={title}>
      <figcaption>
        <span class="chart-title">{title}</span>
      </figcaption>
      <Table
        id="known-values"
        caption={`Known values of ${title}`}
        columns={columnsOf(unit)}
        rows={values}
        rowKey={({ time, what }) => `${time} ${what}`}
      />
      <p class="chart-note">There is no line over time: {reason}.</p>
    </figure>
  );
}

function columnsOf(unit: string): Column<KnownValue>[] {
  return [
    {
      key: "time",
      label: "When",
      cell: ({ time }) => (time === null ? "now" : formatTime(time)),
    },
    { key: "what", label: "State", isSentence: true, cell: ({ what }) => what },
    {
      key: "value",
      label: "Value",
      isNumeric: true,
      cell: ({ value }) => formatValue(value, unit),
      title: ({ value }) => exact(value, unit),
    },
    {
      key: "threshold",
      label: "Limit",
      isNumeric: true,
      cell: ({ threshold }) => formatValue(threshold, unit),
      title: ({ threshold }) => exact(threshold, unit),
    },
    {
      key: "n",
      label: "n",
      isNumeric: true,
      isMinor: true,
      cell: ({ executions }) => formatCount(executions || null),
    },
  ];
}
