import { exact } from "./format";

const WIDTH = 96;
const HEIGHT = 22;

interface SparklineProps {
  label: string;
  points: readonly (readonly [time: number, value: number | null, n: number])[];
}

/** A small line without axes; gaps stay gaps. */
export function Sparkline({ label, points }: SparklineProps) {
  const values = points.flatMap(([, value]) => (value === null ? [] : [value]));
  const latest = exact(values.at(-1));
  return (
    <svg
      class="sparkline"
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      role="img"
      aria-label={latest ? `${label}, now ${latest}` : `${label}: no data`}
    >
      <path d={linePath(points.map(([, value]) => value))} />
    </svg>
  );
}

/** Returns the line through the values, from 0 at the bottom to the largest at the top. */
export function linePath(values: readonly (number | null)[]): string {
  const top = Math.max(0, ...values.flatMap((value) => value ?? [])) || 1;
  const step = WIDTH / Math.max(1, values.length - 1);
  let isDown = false;
  let path = "";
  values.forEach((value, index) => {
    if (value !== null) {
      const x = (index * step).toFixed(1);
      const y = (HEIGHT - 1 - (value / top) * (HEIGHT - 2)).toFixed(1);
      path += `${isDown ? "L" : "M"}${x} ${y}`;
    }
    isDown = value !== null;
  });
  return path;
}
