import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { formatDuration, formatTime } from "../ui/format";
import { resolveColor, scheme, seriesColor } from "./colors";
import {
  align,
  seenSeries,
  seriesTable,
  stack,
  type Episode,
  type Series,
} from "./data";
import { ChartFrame } from "./frame";
import { drawEpisodes, drawThreshold } from "./overlays";
import { exactValue, formatValue } from "./units";

export interface LineChartProps {
  title: string;
  subject: string;
  series: readonly Series[];
  unit: string;
  range: readonly [start: number, end: number];
  /** Areas on top of each other; the height is the sum. */
  isStacked?: boolean;
  threshold?: number | null;
  episodes?: readonly Episode[];
  /** Whether the axis ends at 1. */
  isShare?: boolean;
  note?: string | undefined;
  /** Seconds, for values that are sums over steps. */
  step?: number | undefined;
  /** Stands in place of lines that are zero all the time. */
  none?: string | undefined;
}

const HEIGHT = 168;
// The pixels of a line that belong to one of several equal lines.
const DASH = 5;
// Charts with this key move their cursors together.
const SYNC = "time";

/** A time series, or several. Gaps are gaps; arrow keys move the cursor. */
export function LineChart(props: LineChartProps) {
  const { title, subject, series, unit, note, step, none } = props;
  const latest = useRef(props);
  latest.current = props;
  const hasData = series.some(({ points }) =>
    points.some(([, value]) => value !== null),
  );
  const isPlotted = hasData && (none === undefined || seenSeries(series).length > 0);
  return (
    <ChartFrame
      title={title}
      subject={subject}
      note={note}
      per={step === undefined ? undefined : `per ${formatDuration(step)}`}
      hasData={isPlotted}
      table={() => seriesTable(latest.current.series, unit)}
      tableNote="Each time is the beginning of a step. The present step, which has only begun, is left out."
    >
      {isPlotted ? (
        <Plot {...props} />
      ) : (
        <p class="chart-empty">{hasData ? none : "No data in this period."}</p>
      )}
    </ChartFrame>
  );
}

function Plot(props: LineChartProps) {
  const { title, series, range } = props;
  const host = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const latest = useRef(props);
  latest.current = props;
  const [index, setIndex] = useState<number | null>(null);
  const names = series.map(({ name }) => name);
  const shape = JSON.stringify([names, props.unit, props.isStacked, scheme.value]);
  // At once: what can be saved is drawn.
  useLayoutEffect(() => {
    if (!host.current) return;
    plot.current = createPlot(host.current, latest, setIndex);
    const resize = new ResizeObserver(() => {
      const width = host.current?.clientWidth ?? 0;
      if (width > 0) plot.current?.setSize({ width, height: HEIGHT });
    });
    resize.observe(host.current);
    return () => {
      resize.disconnect();
      plot.current?.destroy();
    };
  }, [shape]);
  useEffect(() => {
    plot.current?.setData(plotData(props), false);
    plot.current?.setScale("x", { min: range[0], max: range[1] });
  }, [series, range[0], range[1], props.threshold, props.episodes]);
  const move = (event: KeyboardEvent) => {
    const { times } = align(series);
    const next = nextIndex(event.key, index ?? times.length - 1, times.length);
    if (next === null || !plot.current) return;
    event.preventDefault();
    const left = plot.current.valToPos(times[next] as number, "x");
    plot.current.setCursor({ left, top: HEIGHT / 3 });
    setIndex(next);
  };
  return (
    <>
      <div
        ref={host}
        class="plot"
        tabIndex={0}
        role="img"
        aria-label={`${title}. ${names.join(", ")}. Arrow keys move through time.`}
        onKeyDown={move}
      />
      <Readout {...props} index={index} />
    </>
  );
}

/** Returns the position that a key leads to. */
function nextIndex(key: string, index: number, length: number): number | null {
  const steps: Record<string, number> = { ArrowLeft: index - 1, ArrowRight: index + 1 };
  const target = { ...steps, Home: 0, End: length - 1 }[key];
  return target === undefined ? null : Math.min(length - 1, Math.max(0, target));
}

/** The legend; with the cursor on the chart it has the exact values there, and n. */
function Readout({ series, unit, index }: LineChartProps & { index: number | null }) {
  const { times, values, counts } = align(series);
  const time = index === null ? undefined : times[index];
  return (
    <div class="readout" aria-live="polite">
      {time !== undefined && <time>{formatTime(time)}</time>}
      <ul>
        {series.map(({ name }, at) => {
          const value = index === null ? null : (values[at]?.[index] ?? null);
          const n = index === null ? 0 : (counts[at]?.[index] ?? 0);
          return (
            <li key={name}>
              <i class="swatch" ref={(element) => paint(element, name, at)} />
              {name}
              {time !== undefined && (
                <b>
                  {exactValue(value, unit)}
                  <span class="n"> n {n}</span>
                </b>
              )}
            </li>
          );
        })}
      </ul>
    </div>
  );
}

function paint(element: HTMLElement | null, name: string, index: number): void {
  if (element) element.style.background = `var(${seriesColor(name, index)})`;
}

/** Returns what uPlot draws; of stacked series, the last one is drawn first. */
function plotData({ series, isStacked }: LineChartProps): uPlot.AlignedData {
  const { times, values } = align(series);
  const rows = isStacked ? stack(values).reverse() : values;
  return [times, ...rows] as uPlot.AlignedData;
}

function createPlot(
  host: HTMLDivElement,
  latest: { current: LineChartProps },
  onCursor: (index: number | null) => void,
): uPlot {
  const props = latest.current;
  const ink = resolveColor("--ink-soft");
  const grid = { stroke: resolveColor("--border"), width: 1 };
  const axis: uPlot.Axis = { stroke: ink, grid, ticks: grid, font: "11px system-ui" };
  const options: uPlot.Options = {
    width: Math.max(200, host.clientWidth),
    height: HEIGHT,
    legend: { show: false },
    cursor: { sync: { key: SYNC }, drag: { x: false, y: false } },
    scales: {
      x: { time: true, range: () => [...latest.current.range] },
      y: { range: (_, __, max) => [0, axisTop(latest.current, max)] },
    },
    series: [{}, ...plotSeries(props)],
    axes: [
      {
        ...axis,
        // A time with seconds or a date needs this many pixels.
        space: 80,
        values: (_, ticks) => ticks.map((each) => axisTime(each)),
      },
      {
        ...axis,
        size: 62,
        values: (_, ticks) => ticks.map((each) => formatValue(each, props.unit)),
      },
    ],
    hooks: {
      setCursor: [(chart) => onCursor(chart.cursor.idx ?? null)],
      drawClear: [(chart) => drawEpisodes(chart, latest.current.episodes ?? [])],
      draw: [(chart) => drawThreshold(chart, latest.current.threshold ?? null)],
    },
  };
  return new uPlot(options, plotData(props), host);
}

function axisTop({ isShare, threshold }: LineChartProps, max: number | null): number {
  if (isShare) return 1;
  return Math.max(max ?? 0, threshold ?? 0) * 1.08 || 1;
}

function axisTime(time: number): string {
  return formatTime(time).replace(/:00$/, "").slice(-8);
}

function plotSeries({ series, isStacked }: LineChartProps): uPlot.Series[] {
  const lines = series.map(({ name }, index) => {
    const stroke = resolveColor(seriesColor(name, index));
    const line: uPlot.Series = { stroke, width: 1.5, spanGaps: false };
    if (isStacked) return { ...line, width: 0, fill: stroke, points: { show: false } };
    // Where lines are equal, the lower ones show in the gaps of the upper ones.
    const dash = index ? { dash: [DASH * (series.length - index), DASH * index] } : {};
    return { ...line, ...dash, points: { size: 4, fill: stroke } };
  });
  return isStacked ? lines.reverse() : lines;
}
