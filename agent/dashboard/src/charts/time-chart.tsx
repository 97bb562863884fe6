import type { ComponentChildren } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { navigate } from "../state/route";
import { formatTime } from "../ui/format";
import { Empty } from "../ui/panel";
import { align, stack, type Aligned, type Line } from "./align";
import { ChartPanel } from "./chart-panel";
import { colour, faded, lineColour, theme } from "./colours";
import { linesToCsv } from "./csv";
import { download, downloadPng } from "./download";
import { ValueTable } from "./value-table";

export interface ChartLine extends Line {
  /** A colour of the style sheet, such as "--good". */
  colour?: string;
}

/** A period to mark, such as an episode of an alert. */
export interface Span {
  start: number;
  /** null: it goes on. */
  end: number | null;
  label: string;
}

interface TimeChartProps {
  title: string;
  lines: readonly ChartLine[];
  format: (value: number | null) => string;
  start: number;
  end: number;
  /** Seconds of a step; a bar is as wide. */
  step: number;
  kind?: "lines" | "bars";
  threshold?: { value: number; label: string } | null;
  spans?: readonly Span[];
  /** Shown in place of a chart without any value. */
  empty?: ComponentChildren;
  /** Beside the name of a line, such as its n. */
  note?: (line: Line, position: number | null) => ComponentChildren;
}

const HEIGHT = 170;
// All charts of a view show the same moment.
const SYNC = "time";

/** Values over time, with a legend, a table and exports. Dragging selects a period. */
export function TimeChart(props: TimeChartProps) {
  const { title, lines, format, kind = "lines", empty } = props;
  const aligned = useMemo(() => align(lines), [lines]);
  const [position, setPosition] = useState<number | null>(null);
  const plot = useRef<uPlot | null>(null);
  const isEmpty = !aligned.values.some((row) => row.some((value) => value !== null));
  if (isEmpty) {
    return (
      <ChartPanel title={title}>
        {empty ?? <Empty title="Nothing happened in this period." />}
      </ChartPanel>
    );
  }
  const savePng = () => {
    const canvas = plot.current?.ctx.canvas;
    if (!canvas) return;
    const legend = lines.map((line, at) => ({
      name: line.name,
      colour: colour(line.colour ?? lineColour(at), document.body),
    }));
    const ink = colour("--ink", document.body);
    downloadPng(title, canvas, legend, ink, colour("--surface", document.body));
  };
  return (
    <ChartPanel
      title={title}
      onCsv={() => download(`${title}.csv`, linesToCsv(lines))}
      onPng={savePng}
    >
      <Plot {...props} aligned={aligned} plot={plot} onMove={setPosition} />
      <Legend {...props} aligned={aligned} position={position} />
      <ValueTable
        caption={title}
        head={["Time", ...lines.map(({ name }) => name)]}
        rows={() =>
          aligned.times.map((time, at) => [
            formatTime(time),
            ...aligned.values.map((row) => format(row[at] ?? null)),
          ])
        }
      />
      {kind === "bars" && lines.length > 1 && (
        <p class="hidden">
          Each bar is divided by {lines.map((l) => l.name).join(", ")}.
        </p>
      )}
    </ChartPanel>
  );
}

interface PlotProps extends TimeChartProps {
  aligned: Aligned;
  plot: { current: uPlot | null };
  onMove: (position: number | null) => void;
}

function Plot(props: PlotProps) {
  const { title, lines, aligned, plot, onMove, kind, start, end } = props;
  const place = useRef<HTMLDivElement>(null);
  const latest = useRef(props);
  latest.current = props;
  const look = theme.value;
  // Another set of lines needs another chart; new values do not.
  const shape = JSON.stringify([kind, lines.map((line) => [line.name, line.colour])]);
  useEffect(() => {
    const element = place.current;
    if (!element) return;
    const chart = new uPlot(options(latest, element, onMove), data(props), element);
    plot.current = chart;
    const observer = new ResizeObserver(() =>
      chart.setSize({ width: element.clientWidth, height: HEIGHT }),
    );
    observer.observe(element);
    return () => {
      observer.disconnect();
      chart.destroy();
      plot.current = null;
    };
  }, [shape, look]);
  useEffect(() => {
    plot.current?.setData(data(props), false);
    plot.current?.setScale("x", { min: start, max: end });
  }, [aligned, start, end, props.threshold?.value, props.spans]);
  return (
    <div
      class="plot"
      ref={place}
      tabIndex={0}
      role="group"
      aria-label={`${title}: arrow keys read single values`}
      onKeyDown={(event) => moveCursor(event, plot.current)}
    />
  );
}

function data({ aligned, kind }: PlotProps): uPlot.AlignedData {
  if (kind !== "bars") return [aligned.times, ...aligned.values];
  // The whole is drawn first, and what is below it over it.
  return [aligned.times, ...stack(aligned.values).reverse()];
}

function options(
  latest: { current: PlotProps },
  element: Element,
  onMove: (position: number | null) => void,
): uPlot.Options {
  const { lines, kind, format, start, end } = latest.current;
  const soft = colour("--ink-soft", element);
  const grid = { stroke: faded(colour("--border", element), 0.7), width: 1 };
  const axis = { stroke: soft, grid, ticks: { show: false }, font: "11px system-ui" };
  const series = lines.map((line, at) => {
    const value = colour(line.colour ?? lineColour(at), element);
    return kind === "bars"
      ? { fill: value, width: 0, points: { show: false }, paths: stepBars(latest) }
      : { stroke: value, width: 1.6, points: { size: 4 } };
  });
  return {
    width: element.clientWidth,
    height: HEIGHT,
    legend: { show: false },
    padding: [8, 4, 0, 0],
    cursor: {
      sync: { key: SYNC },
      drag: { x: true, y: false, setScale: false },
      points: { show: kind !== "bars" },
    },
    scales: {
      x: { time: true, min: start, max: end },
      y: { range: (_, __, most) => [0, top(most, latest.current)] },
    },
    axes: [
      { ...axis, space: 70 },
      {
        ...axis,
        size: 64,
        values: (_, splits) => splits.map((value) => format(value)),
      },
    ],
    series: [{}, ...(kind === "bars" ? series.reverse() : series)],
    hooks: {
      setCursor: [({ cursor }) => onMove(cursor.idx ?? null)],
      setSelect: [selectPeriod],
      draw: [(chart) => drawMarks(chart, latest.current, element)],
    },
  };
}

/** Returns the upper end of the axis: above all values and the threshold. */
function top(most: number | null, { threshold }: PlotProps): number {
  return Math.max(most ?? 0, threshold?.value ?? 0) * 1.08 || 1;
}

/** Draws each bar over its own step, which begins at its time. */
function stepBars(latest: { current: PlotProps }): uPlot.Series.PathBuilder {
  return (chart, line, first, last) => {
    const path = new Path2D();
    const values = chart.data[line] ?? [];
    const base = chart.valToPos(0, "y", true);
    for (let at = first; at <= last; at++) {
      const time = chart.data[0][at];
      const value = values[at];
      if (!value || time === undefined) continue;
      const left = chart.valToPos(time, "x", true);
      const right = chart.valToPos(time + latest.current.step, "x", true);
      const high = chart.valToPos(value, "y", true);
      path.rect(left, high, Math.max(1, right - left - 1), base - high);
    }
    return { fill: path, stroke: null, clip: null };
  };
}

function drawMarks(chart: uPlot, { threshold, spans = [] }: PlotProps, near: Element) {
  const { ctx, bbox } = chart;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  ctx.fillStyle = faded(colour("--bad", near), 0.14);
  for (const span of spans) {
    const left = chart.valToPos(span.start, "x", true);
    const right =
      span.end === null ? bbox.left + bbox.width : chart.valToPos(span.end, "x", true);
    ctx.fillRect(left, bbox.top, Math.max(2, right - left), bbox.height);
  }
  if (threshold) {
    const y = chart.valToPos(threshold.value, "y", true);
    ctx.strokeStyle = colour("--bad", near);
    ctx.setLineDash([6, 4]);
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
  }
  ctx.restore();
}

/** Shows the period that was selected with the mouse; a click selects nothing. */
function selectPeriod(chart: uPlot) {
  const { left, width } = chart.select;
  if (width < 8) return;
  const start = chart.posToVal(left, "x");
  const end = chart.posToVal(left + width, "x");
  chart.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  const seconds = Math.max(60, Math.ceil(end - start));
  navigate({ window: `${seconds}s`, end: Math.ceil(end) });
}

function moveCursor(event: KeyboardEvent, chart: uPlot | null) {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step || !chart) return;
  event.preventDefault();
  const times = chart.data[0];
  const now = chart.cursor.idx ?? times.length - 1;
  const time = times[Math.min(times.length - 1, Math.max(0, now + step))];
  if (time !== undefined) chart.setCursor({ left: chart.valToPos(time, "x"), top: 10 });
}

interface LegendProps extends TimeChartProps {
  aligned: Aligned;
  position: number | null;
}

/** The lines with their value at the cursor, or their latest one. */
function Legend({ lines, aligned, position, format, note, threshold }: LegendProps) {
  const time = position === null ? undefined : aligned.times[position];
  return (
    <div class="legend" aria-live="polite">
      <ul>
        {lines.map((line, at) => {
          const row = aligned.values[at] ?? [];
          const value = position === null ? lastOf(row) : (row[position] ?? null);
          return (
            <li key={line.name}>
              <Swatch name={line.colour ?? lineColour(at)} />
              {line.name} <b>{format(value)}</b>
              {note?.(line, position)}
            </li>
          );
        })}
        {threshold && (
          <li>
            <span class="dashed" aria-hidden="true" /> {threshold.label}{" "}
            <b>{format(threshold.value)}</b>
          </li>
        )}
      </ul>
      {time !== undefined && <span class="n">{formatTime(time)}</span>}
    </div>
  );
}

function lastOf(row: readonly (number | null)[]): number | null {
  return row.reduce((last, value) => value ?? last, null);
}

/** A small square in the colour of a line. */
export function Swatch({ name }: { name: string }) {
  return (
    <svg class="swatch" viewBox="0 0 10 10" aria-hidden="true">
      <rect width="10" height="10" rx="2" style={{ fill: `var(${name})` }} />
    </svg>
  );
}
