import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { Panel } from "../ui/panel";
import type { DataTable } from "./data";
import { ChartTools } from "./frame";
import { ChartTable } from "./table";

interface ChartPanelProps {
  title: string;
  /** Names exported files. */
  subject: string;
  table: () => DataTable;
  hasData: boolean;
  /** Draws what is saved: the chart itself consists of elements. */
  picture: () => HTMLCanvasElement;
  /** Beside the title. */
  info?: ComponentChildren;
  children: ComponentChildren;
}

/** A panel with a chart made of elements, its data as a table, and its exports. */
export function ChartPanel(props: ChartPanelProps) {
  const { title, subject, table, hasData, picture, info, children } = props;
  const [isTable, setIsTable] = useState(false);
  return (
    <Panel
      title={title}
      actions={
        <span class="panel-actions">
          {info}
          <ChartTools
            {...{ title, subject, table, hasData, isTable, picture }}
            onTable={setIsTable}
          />
        </span>
      }
    >
      {isTable && hasData ? <ChartTable caption={title} table={table()} /> : children}
    </Panel>
  );
}
