import type { ComponentChildren } from "preact";
import { useId, useRef, useState } from "preact/hooks";
import { download, fileName } from "../ui/download";
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
  /** Below the table, and with the button that saves it. */
  tableNote?: string | undefined;
  /** After the title: what a value is for, such as "per 10 s". */
  per?: string | undefined;
}

/** A chart with its title, its data as a table, and its exports as CSV and PNG. */
export function ChartFrame(props: FrameProps) {
  const { title, subject, table, hasData, children, note, tableNote, per } = props;
  const [isTable, setIsTable] = useState(false);
  const body = useRef<HTMLDivElement>(null);
  const id = useId();
  return (
    <figure class="chart" aria-labelledby={id}>
      <figcaption>
        <span id={id} class="chart-title">
          {title}
          {per && <span class="per"> {per}</span>}
        </span>
        <ChartTools
          {...{ title, subject, table, tableNote, hasData, isTable }}
          onTable={setIsTable}
          picture={() => body.current?.querySelector("canvas") ?? null}
        />
      </figcaption>
      {isTable ? (
        <ChartTable caption={title} table={table()} />
      ) : (
        <div ref={body}>{children}</div>
      )}
      {isTable && tableNote && <p class="chart-note">{tableNote}</p>}
      {note && <p class="chart-note">{note}</p>}
    </figure>
  );
}

interface ToolsProps extends Pick<
  FrameProps,
  "title" | "subject" | "table" | "tableNote" | "hasData"
> {
  isTable: boolean;
  onTable: (isTable: boolean) => void;
  /** Returns what is drawn; null if nothing is. */
  picture: () => HTMLCanvasElement | null;
}

/** The buttons of a chart: its data as a table, and its exports. */
export function ChartTools(props: ToolsProps) {
  const { title, subject, table, tableNote, hasData, isTable, onTable, picture } =
    props;
  const name = `${subject} ${title}`.trim();
  const savePng = () => {
    const canvas = picture();
    const heading = [subject, title].filter(Boolean).join(": ");
    if (canvas) void exportPng(canvas, heading, fileName(name, "png"));
  };
  return (
    <span class="chart-tools">
      <button
        type="button"
        aria-pressed={isTable}
        aria-label={`Table of ${title}`}
        onClick={() => onTable(!isTable)}
      >
        Table
      </button>
      <button
        type="button"
        aria-label={`Save ${title} as CSV`}
        title={tableNote}
        disabled={!hasData}
        onClick={() => download(csvBlob(table()), fileName(name, "csv"))}
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
  );
}

const csvBlob = (table: DataTable) =>
  new Blob([toCsv(table)], { type: "text/csv;charset=utf-8" });

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
  if (blob) download(blob, name);
}
