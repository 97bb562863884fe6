import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Heatmap } from "../api/types";
import { formatDuration, formatPlural, formatTime } from "../ui/format";
import { resolveColor, scheme } from "./colors";
import { isoTime, type DataTable } from "./data";
import { ChartFrame } from "./frame";
import { cellAt, shade, type Grid } from "./heatmap-grid";

const HEIGHT = 190;
const LEFT = 62;
const BOTTOM = 22;
const FONT_SIZE = 11;

/** How long executions took over time: the darker a cell, the more executions. */
export function HeatmapChart({
  subject,
  heatmap,
}: {
  subject: string;
  heatmap: Heatmap;
}) {
  const title = "Latency heatmap";
  const hasData = heatmap.cells.length > 0;
  return (
    <ChartFrame
      title={title}
      subject={subject}
      hasData={hasData}
      table={() => heatmapTable(heatmap)}
      note="Each cell counts the executions of one time step, by duration; a stronger color means more."
    >
      {hasData ? (
        <Cells title={title} heatmap={heatmap} />
      ) : (
        <p class="chart-empty">No data in this period.</p>
      )}
    </ChartFrame>
  );
}

function Cells({ title, heatmap }: { title: string; heatmap: Heatmap }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [width, setWidth] = useState(600);
  const [cell, setCell] = useState<[number, number]>([-1, -1]);
  const grid: Grid = {
    left: LEFT,
    width: Math.max(1, width - LEFT - 8),
    height: HEIGHT - BOTTOM,
    columns: heatmap.columns,
    rows: heatmap.bounds.length,
  };
  useEffect(() => {
    const element = canvas.current?.parentElement;
    if (!element) return;
    const resize = new ResizeObserver(() => setWidth(element.clientWidth));
    resize.observe(element);
    return () => resize.disconnect();
  }, []);
  const dark = scheme.value;
  // At once: what can be saved is drawn.
  useLayoutEffect(() => {
    if (canvas.current) draw(canvas.current, width, grid, heatmap, cell);
  }, [heatmap, width, cell, dark]);
  const keys: Record<string, [number, number]> = {
    ArrowLeft: [-1, 0],
    ArrowRight: [1, 0],
    ArrowUp: [0, 1],
    ArrowDown: [0, -1],
  };
  const move = (event: KeyboardEvent) => {
    const step = keys[event.key];
    if (!step) return;
    event.preventDefault();
    const clamp = (value: number, size: number) =>
      Math.max(0, Math.min(size - 1, value));
    setCell(([column, row]) => [
      clamp(column < 0 ? grid.columns - 1 : column + step[0], grid.columns),
      clamp(row + step[1], grid.rows),
    ]);
  };
  return (
    <div>
      <canvas
        ref={canvas}
        class="heatmap"
        tabIndex={0}
        role="img"
        aria-label={`${title}. Arrow keys move between the cells.`}
        onKeyDown={move}
        onPointerMove={(event) => setCell(cellAt(grid, event.offsetX, event.offsetY))}
        onPointerLeave={() => setCell([-1, -1])}
      />
      <div class="readout" aria-live="polite">
        {cellText(heatmap, cell)}
      </div>
    </div>
  );
}

function cellText(heatmap: Heatmap, [column, row]: readonly [number, number]): string {
  if (column < 0 || row < 0) return "";
  const count = heatmap.cells.find(
    (each) => each[0] === column && each[1] === row,
  )?.[2];
  const time = formatTime(heatmap.first + column * heatmap.step);
  const upper = formatDuration(heatmap.bounds[row] ?? null);
  const lower = row ? `over ${formatDuration(heatmap.bounds[row - 1] ?? null)} ` : "";
  return `${time}, ${lower}up to ${upper}: ${formatPlural(count ?? 0, "execution")}`;
}

function heatmapTable({ first, step, bounds, cells }: Heatmap): DataTable {
  return {
    header: ["time", "up to (seconds)", "executions"],
    rows: cells.map(([column, row, count]) => [
      isoTime(first + column * step),
      bounds[row] ?? null,
      count,
    ]),
  };
}

function draw(
  canvas: HTMLCanvasElement,
  width: number,
  grid: Grid,
  heatmap: Heatmap,
  cell: readonly [number, number],
): void {
  const scale = devicePixelRatio || 1;
  canvas.width = width * scale;
  canvas.height = HEIGHT * scale;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${HEIGHT}px`;
  const context = canvas.getContext("2d");
  if (!context) return;
  context.scale(scale, scale);
  const columnWidth = grid.width / grid.columns;
  const rowHeight = grid.height / grid.rows;
  const most = Math.max(...heatmap.cells.map((each) => each[2]));
  const box = (column: number, row: number): [number, number, number, number] => [
    grid.left + column * columnWidth,
    grid.height - (row + 1) * rowHeight,
    Math.max(1, columnWidth - 0.5),
    Math.max(1, rowHeight - 0.5),
  ];
  context.fillStyle = resolveColor("--accent");
  for (const [column, row, count] of heatmap.cells) {
    context.globalAlpha = shade(count, most);
    context.fillRect(...box(column, row));
  }
  context.globalAlpha = 1;
  if (cell[0] >= 0) {
    context.strokeStyle = resolveColor("--ink");
    context.strokeRect(...box(...(cell as [number, number])));
  }
  drawAxes(context, grid, heatmap);
}

function drawAxes(
  context: CanvasRenderingContext2D,
  grid: Grid,
  heatmap: Heatmap,
): void {
  context.fillStyle = resolveColor("--ink-soft");
  context.font = `${FONT_SIZE}px system-ui`;
  context.textAlign = "right";
  const every = Math.ceil(grid.rows / 7);
  for (let row = 0; row < grid.rows; row += every) {
    const y = Math.max(
      FONT_SIZE,
      grid.height - (row + 0.3) * (grid.height / grid.rows),
    );
    context.fillText(formatDuration(heatmap.bounds[row] ?? null), LEFT - 6, y);
  }
  context.textAlign = "left";
  const labels = Math.max(1, Math.floor(grid.width / 110));
  for (let label = 0; label < labels; label++) {
    const column = Math.floor((label * grid.columns) / labels);
    const x = grid.left + column * (grid.width / grid.columns);
    const time = formatTime(heatmap.first + column * heatmap.step);
    context.fillText(time.replace(/:00$/, ""), x, HEIGHT - 6);
  }
}
