import { formatNumber } from "../ui/format";
import type { DataTable } from "./data";

/** The data of a chart as a table, with all digits. */
export function ChartTable({ caption, table }: { caption: string; table: DataTable }) {
  return (
    <div
      class="table-scroll chart-table"
      tabIndex={0}
      role="group"
      aria-label={caption}
    >
      <table>
        <caption class="hidden">{caption}</caption>
        <thead>
          <tr>
            {table.header.map((each) => (
              <th key={each} scope="col">
                {each}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {table.rows.map((row, number) => (
            <tr key={number}>
              {row.map((cell, index) => (
                <td key={index} class={typeof cell === "string" ? undefined : "number"}>
                  {typeof cell === "string" ? cell : formatNumber(cell)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
