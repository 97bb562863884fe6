// How the values of a unit are shown.
import {
  exact,
  formatBytes,
  formatCount,
  formatDuration,
  formatMoney,
  formatRate,
  formatShare,
  NONE,
} from "../ui/format";

const FORMATS: Record<string, (value: number | null) => string> = {
  seconds: formatDuration,
  ratio: formatShare,
  usd: formatAmount,
  bytes: formatBytes,
  per_second: formatRate,
  "executions per second": formatRate,
  runs: (value) => suffixed(value, value === 1 ? " run" : " runs"),
  times: (value) => suffixed(value, "×"),
  "standard deviations": (value) => suffixed(value, " σ"),
};

/** Returns a value for people. */
export function formatValue(value: number | null, unit: string): string {
  return (FORMATS[unit] ?? formatCount)(value);
}

/** Returns all digits of a value with its unit, or "no data". */
export function exactValue(value: number | null, unit: string): string {
  return exact(value, unit === "ratio" ? "" : unit) ?? "no data";
}

const suffixed = (value: number | null, suffix: string) =>
  value === null ? NONE : formatCount(value) + suffix;

// Single calls cost less than a cent: the axis would have the same label everywhere.
function formatAmount(dollars: number | null): string {
  return dollars !== null && dollars > 0 && dollars < 0.01
    ? `$${Number(dollars.toPrecision(2))}`
    : formatMoney(dollars);
}
