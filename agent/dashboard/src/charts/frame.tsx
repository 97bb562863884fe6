import type { ComponentChildren } from "preact";
import { useId, useRef, useState } from "preact/hooks";
import { toCsv, type DataTable } from "./data";
import { ChartTable } from "./table";

interface FrameProps {
  title: string;
  /** Names exported files, and tells charts with equal titles apart. */
  subject: string;
  table: () => DataTable;
  /** Whether there is something to save. */
  hasData: boolean;
  children: ComponentChildren;
  note?: ComponentChildren;
}

/** A chart with its title, its data as a table, and its exports as CSV and PNG. */
export function ChartFrame(props: FrameProps) {
  const { title, subject, table, hasData, children, note } = props;
  const [isTable, setIsTable] = useState(false);
  const body = useRef<HTMLDivElement>(null);
  const id = useId();
  const name = fileName(`${subject} ${title}`);
  const savePng = () => {
    const canvas = body.current?.querySelector("canvas");
    if (canvas) void exportPng(canvas, `${subject}: ${title}`, `${name}.png`);
  };
  return (
    <figure class="chart" aria-labelledby={id}>
      <figcaption>
        <span id={id} class="chart-title">
          {title}
        </span>
        <span class="chart-tools">
          <button
            type="button"
            aria-pressed={isTable}
            aria-label={`Table of ${title}`}
            onClick={() => setIsTable(!isTable)}
          >
            Table
          </button>
          <button
            type="button"
            aria-label={`Save ${title} as CSV`}
            disabled={!hasData}
            onClick={() => save(csvBlob(table()), `${name}.csv`)}
          >
            CSV
          </button>
          <button
            type="button"
            aria-label={`Save ${title} as PNG`}
            disabled={isTable || !hasData}
            onClick={savePng}
          >
            PNG
          </button>
        </span>
      </figcaption>
      {isTable ? (
        <ChartTable caption={title} table={table()} />
      ) : (
        <div ref={body}>{children}</div>
      )}
      {note && <p class="chart-note">{note}</p>}
    </figure>
  );
}

const csvBlob = (table: DataTable) =>
  new Blob([toCsv(table)], { type: "text/csv;charset=utf-8" });

function fileName(text: string): string {
  return text.replace(/[^\p{L}\p{N}.-]+/gu, "-").slice(0, 100);
}

function save(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  // The download has to begin before its address is released.
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Saves a canvas with its title on the background of the page. */
async function exportPng(
  source: HTMLCanvasElement,
  title: string,
  name: string,
): Promise<void> {
  const scale = devicePixelRatio || 1;
  const head = 28 * scale;
  const canvas = document.createElement("canvas");
  canvas.width = source.width;
  canvas.height = source.height + head;
  const context = canvas.getContext("2d");
  const style = getComputedStyle(source.closest(".panel, .chart") ?? document.body);
  if (!context) return;
  const background = style.backgroundColor;
  const isClear = background === "rgba(0, 0, 0, 0)";
  context.fillStyle = isClear
    ? getComputedStyle(document.documentElement).backgroundColor
    : background;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = style.color;
  context.font = `600 ${13 * scale}px system-ui, sans-serif`;
  context.fillText(title, 8 * scale, 18 * scale);
  context.drawImage(source, 0, head);
  const blob = await new Promise<Blob | null>((done) => canvas.toBlob(done));
  if (blob) save(blob, name);
}
