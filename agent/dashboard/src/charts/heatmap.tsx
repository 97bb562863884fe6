import { useEffect, useRef, useState } from "preact/hooks";
import type { Heatmap } from "../api/types";
import { formatCount, formatDuration, formatTime } from "../ui/format";
import { Empty } from "../ui/panel";
import { cellAt, strength, usedRows, type Cell } from "./cells";
import { ChartPanel } from "./chart-panel";
import { colour, faded, theme } from "./colours";
import { toCsv } from "./csv";
import { download, downloadPng } from "./download";
import { ValueTable } from "./value-table";

const LEFT = 64;
const BOTTOM = 20;
const HEIGHT = 200;

/** How many executions took how long, over time. */
export function HeatmapChart({ title, heatmap }: { title: string; heatmap: Heatmap }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [cell, setCell] = useState<{ column: number; row: number } | null>(null);
  const [width, setWidth] = useState(0);
  const look = theme.value;
  const [first, last] = usedRows(heatmap);
  const columns = Math.max(1, heatmap.columns);
  useEffect(() => {
    const element = canvas.current;
    if (!element) return;
    const observer = new ResizeObserver(() => setWidth(element.clientWidth));
    observer.observe(element);
    return () => observer.disconnect();
  }, [heatmap.cells.length === 0]);
  useEffect(() => {
    if (canvas.current && width) draw(canvas.current, heatmap, first, last, cell);
  }, [heatmap, width, look, cell]);
  if (!heatmap.cells.length) {
    return (
      <ChartPanel title={title}>
        <Empty title="Nothing happened in this period." />
      </ChartPanel>
    );
  }
  const shown = cell && cellAt(heatmap, cell.column, cell.row);
  const point = (event: MouseEvent) => {
    const { offsetX, offsetY } = event;
    const column = Math.floor(((offsetX - LEFT) / (width - LEFT)) * columns);
    const row = last - Math.floor((offsetY / (HEIGHT - BOTTOM)) * (last - first + 1));
    const isInside = column >= 0 && column < columns && row >= first && row <= last;
    setCell(isInside ? { column, row } : null);
  };
  const move = (event: KeyboardEvent) => {
    const steps: Record<string, [number, number]> = {
      ArrowLeft: [-1, 0],
      ArrowRight: [1, 0],
      ArrowUp: [0, 1],
      ArrowDown: [0, -1],
    };
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const from = cell ?? { column: columns - 1, row: first };
    setCell({
      column: Math.min(columns - 1, Math.max(0, from.column + step[0])),
      row: Math.min(last, Math.max(first, from.row + step[1])),
    });
  };
  const cells = () =>
    [...heatmap.cells]
      .sort((a, b) => a[0] - b[0] || a[1] - b[1])
      .map(([column, row]) => cellAt(heatmap, column, row));
  const saveCsv = () => {
    const head = ["time", "over seconds", "up to seconds", "executions"];
    const rows = cells().map((each) => [
      new Date(each.time * 1000).toISOString(),
      each.least,
      each.most,
      each.executions,
    ]);
    download(`${title}.csv`, toCsv([head, ...rows]));
  };
  const savePng = () => {
    const ink = colour("--ink", document.body);
    const background = colour("--surface", document.body);
    if (canvas.current) downloadPng(title, canvas.current, [], ink, background);
  };
  return (
    <ChartPanel title={title} onCsv={saveCsv} onPng={savePng}>
      <div class="heatmap">
        <canvas
          ref={canvas}
          tabIndex={0}
          role="img"
          aria-label={`${title}: arrow keys read single cells`}
          onMouseMove={point}
          onMouseLeave={() => setCell(null)}
          onKeyDown={move}
        />
      </div>
      <div class="legend" aria-live="polite">
        {shown ? describe(shown) : "Darker: more executions."}
      </div>
      <ValueTable
        caption={title}
        head={["Time", "Duration", "Executions"]}
        rows={() =>
          cells().map((each) => [
            formatTime(each.time),
            durations(each),
            formatCount(each.executions),
          ])
        }
      />
    </ChartPanel>
  );
}

const durations = ({ least, most }: Cell) =>
  Number.isFinite(most)
    ? `${formatDuration(least)} to ${formatDuration(most)}`
    : `over ${formatDuration(least)}`;

const describe = (cell: Cell) =>
  `${formatTime(cell.time)}: ${formatCount(cell.executions)} took ${durations(cell)}`;

function draw(
  canvas: HTMLCanvasElement,
  heatmap: Heatmap,
  first: number,
  last: number,
  selected: { column: number; row: number } | null,
) {
  const context = canvas.getContext("2d");
  if (!context) return;
  const scale = devicePixelRatio || 1;
  const width = canvas.clientWidth;
  canvas.width = width * scale;
  canvas.height = HEIGHT * scale;
  context.scale(scale, scale);
  const columns = Math.max(1, heatmap.columns);
  const cellWidth = (width - LEFT) / columns;
  const cellHeight = (HEIGHT - BOTTOM) / (last - first + 1);
  const x = (column: number) => LEFT + column * cellWidth;
  const y = (row: number) => (last - row) * cellHeight;
  const ink = colour("--accent", canvas);
  const most = Math.max(...heatmap.cells.map(([, , executions]) => executions));
  for (const [column, row, executions] of heatmap.cells) {
    context.fillStyle = faded(ink, strength(executions, most));
    context.fillRect(x(column), y(row), Math.ceil(cellWidth), Math.ceil(cellHeight));
  }
  context.fillStyle = colour("--ink-soft", canvas);
  context.font = "11px system-ui";
  context.textAlign = "right";
  context.textBaseline = "middle";
  const every = Math.max(1, Math.ceil(14 / cellHeight));
  for (let row = first; row <= last; row += every) {
    const bound = heatmap.bounds[row];
    if (bound === undefined || !Number.isFinite(bound)) continue;
    context.fillText(formatDuration(bound), LEFT - 6, Math.max(6, y(row)));
  }
  context.textAlign = "center";
  const labels = Math.max(1, Math.floor((width - LEFT) / 90));
  for (let at = 0; at < labels; at++) {
    const column = Math.floor(((at + 0.5) / labels) * columns);
    const time = formatTime(heatmap.first + column * heatmap.step);
    context.fillText(time, x(column + 0.5), HEIGHT - BOTTOM / 2);
  }
  if (selected) {
    context.strokeStyle = colour("--ink", canvas);
    context.strokeRect(x(selected.column), y(selected.row), cellWidth, cellHeight);
  }
}
