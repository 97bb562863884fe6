// Figures for people: short, with a unit; an absent one is a dash. `exact` gives the rest.

export const NONE = "–";

type Value = number | null | undefined;

/** Three significant digits, without trailing zeros. */
function digits(value: number): string {
  return value >= 100
    ? String(Math.round(value))
    : String(Number(value.toPrecision(3)));
}

function scale(value: number, units: readonly string[], base: number): string {
  let index = 0;
  // 999.9 would be rounded up to 1000.
  while (Math.abs(value) >= base * 0.9995 && index < units.length - 1) {
    value /= base;
    index++;
  }
  return digits(value) + units[index];
}

/** Returns a duration such as "12 ms", "1.98 s", "3 min 20 s" or "2 d 4 h". */
export function formatDuration(seconds: Value): string {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 0) return `−${formatDuration(-seconds)}`;
  if (seconds === 0) return "0 s";
  if (seconds < 0.0009995) return `${digits(seconds * 1e6)} µs`;
  if (seconds < 0.9995) return `${digits(seconds * 1000)} ms`;
  if (seconds < 99.95) return `${digits(seconds)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return pair(whole, 60, "min", "s");
  const minutes = Math.round(seconds / 60);
  if (minutes < 24 * 60) return pair(minutes, 60, "h", "min");
  return pair(Math.round(seconds / 3600), 24, "d", "h");
}

function pair(value: number, base: number, large: string, small: string): string {
  const rest = value % base;
  const head = `${Math.floor(value / base)} ${large}`;
  return rest ? `${head} ${rest} ${small}` : head;
}

/** Returns a count such as "9,412", "12.3k" or "4.5M". */
export function formatCount(count: Value): string {
  if (count === null || count === undefined) return NONE;
  if (Math.abs(count) < 10_000) return formatNumber(Number(digits4(count)));
  return scale(count, ["", "k", "M", "G", "T"], 1000);
}

// Counts per second and averages have decimals, counts up to 9,999 have none.
function digits4(value: number): string {
  return Number.isInteger(value) ? String(value) : digits(value);
}

/** Returns a share such as "5 %", "99.95 %" or "<0.01 %". */
export function formatShare(share: Value): string {
  if (share === null || share === undefined) return NONE;
  const percent = share * 100;
  if (percent === 0 || percent === 100) return `${percent} %`;
  if (percent > 0 && percent < 0.01) return "<0.01 %";
  // 99.996 % is not 100 %.
  if (percent > 99.99 && percent < 100) return ">99.99 %";
  const decimals = percent > 99 || percent < 1 ? 2 : 1;
  return `${Number(percent.toFixed(decimals))} %`;
}

/** Returns an amount such as "$0.42", "$1.2k" or "<$0.01". */
export function formatMoney(dollars: Value): string {
  if (dollars === null || dollars === undefined) return NONE;
  if (dollars === 0) return "$0";
  if (dollars < 0) return `−${formatMoney(-dollars)}`;
  if (dollars < 0.01) return "<$0.01";
  return dollars < 1000 ? `$${dollars.toFixed(2)}` : `$${formatCount(dollars)}`;
}

/** Returns a size such as "512 B" or "93.4 MiB". */
export function formatBytes(bytes: Value): string {
  if (bytes === null || bytes === undefined) return NONE;
  return scale(bytes, [" B", " KiB", " MiB", " GiB", " TiB"], 1024);
}

/** Returns a rate such as "4.2 /s", "3 /min" or "1.5 /h". */
export function formatRate(perSecond: Value): string {
  if (perSecond === null || perSecond === undefined) return NONE;
  if (perSecond === 0) return "0 /s";
  if (perSecond >= 1) return `${formatCount(perSecond)} /s`;
  if (perSecond * 60 >= 1) return `${digits(perSecond * 60)} /min`;
  return `${digits(perSecond * 3600)} /h`;
}

/** Returns how long ago something was, such as "12 s ago" or "just now". */
export function formatAge(time: Value, now: number): string {
  if (time === null || time === undefined) return "never";
  const age = Math.floor(now - time);
  if (age < 1) return "just now";
  if (age < 60) return `${age} s ago`;
  if (age < 3600) return `${Math.floor(age / 60)} min ago`;
  return `${formatDuration(age)} ago`;
}

/** Returns the local time, with the date unless it is today. */
export function formatTime(time: Value, now: number = Date.now() / 1000): string {
  if (time === null || time === undefined) return NONE;
  const date = new Date(time * 1000);
  const clock = [date.getHours(), date.getMinutes(), date.getSeconds()]
    .map((part) => String(part).padStart(2, "0"))
    .join(":");
  if (date.toDateString() === new Date(now * 1000).toDateString()) return clock;
  const day = [date.getFullYear(), date.getMonth() + 1, date.getDate()]
    .map((part) => String(part).padStart(2, "0"))
    .join("-");
  return `${day} ${clock}`;
}

// `toLocaleString` would make a formatter for each number, which takes ten times as long.
const NUMBERS = new Intl.NumberFormat("en", { maximumSignificantDigits: 15 });

/** Returns all digits of a number, with separators. */
export function formatNumber(value: Value): string {
  if (value === null || value === undefined) return NONE;
  return NUMBERS.format(value);
}

/** Returns a number with its noun, such as "1 run" or "9,412 runs". */
export function formatPlural(count: number, noun: string): string {
  return `${formatNumber(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/** Returns the exact figure for a tooltip, or nothing for an absent one. */
export function exact(value: Value, unit = ""): string | undefined {
  if (value === null || value === undefined) return undefined;
  return unit ? `${formatNumber(value)} ${unit}` : formatNumber(value);
}

const WINDOW_UNITS = { s: 1, m: 60, h: 3600, d: 86_400, w: 604_800 };

/** Returns the seconds of a window such as "5m". */
export function windowSeconds(window: string): number {
  const unit = window.at(-1) as keyof typeof WINDOW_UNITS;
  return parseInt(window, 10) * (WINDOW_UNITS[unit] ?? 1);
}
