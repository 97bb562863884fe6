import { useState } from "preact/hooks";

interface ValueTableProps {
  caption: string;
  head: readonly string[];
  /** Called only while the table is open. */
  rows: () => readonly (readonly string[])[];
}

/** The values of a chart as a table, for screen readers and for exact reading. */
export function ValueTable({ caption, head, rows }: ValueTableProps) {
  const [isOpen, setOpen] = useState(false);
  return (
    <details class="values" onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>Values</summary>
      {isOpen && (
        <div class="table-scroll" tabIndex={0} role="region" aria-label={caption}>
          <table>
            <caption class="hidden">{caption}</caption>
            <thead>
              <tr>
                {head.map((name, at) => (
                  <th key={at} scope="col">
                    {name}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {rows().map((row, at) => (
                <tr key={at}>
                  {row.map((cell, column) => (
                    <td key={column}>{cell}</td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </details>
  );
}
