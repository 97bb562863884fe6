// Numbers for people; an absent one is a dash.
export const formatDuration = (seconds: number | null): string => {
  if (seconds === null) return "–";
  if (seconds === 0) return "0 s";
  if (seconds < 1) return `${digits(seconds * 1000)} ms`;
  if (seconds < 120) return `${digits(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 120 ? `${minutes} min` : `${digits(seconds / 3600)} h`;
};

export const formatCount = (count: number | null): string => {
  if (count === null) return "–";
  if (count < 10_000) return String(count);
  return count < 1e6 ? `${digits(count / 1e3)}k` : `${digits(count / 1e6)}M`;
};

export const formatShare = (share: number | null): string =>
  share === null
    ? "–"
    : `${(share * 100).toFixed(share === 0 || share === 1 ? 0 : 1)} %`;

export const formatMoney = (dollars: number | null): string =>
  dollars === null
    ? "–"
    : `$${dollars < 0.01 && dollars > 0 ? "<0.01" : dollars.toFixed(2)}`;

/** Three significant digits. */
const digits = (value: number): string =>
  value >= 100 ? String(Math.round(value)) : String(Number(value.toPrecision(3)));
