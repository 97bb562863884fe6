import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { navigate, route } from "../state/route";
import { formatCount } from "./format";
import { cellClass, Row, type Column } from "./row";

export type { Column };
import { readSort, sortRows, writeSort } from "./sort";

interface TableProps<T> {
  /** Names the table, and its order in the address. */
  id: string;
  caption: string;
  columns: readonly Column<T>[];
  rows: readonly T[];
  rowKey: (row: T) => string;
  /** "p95" or "-p95": ascending or descending. */
  sort?: string;
  empty?: ComponentChildren;
  rowClass?: (row: T) => string;
}

// More rows make the page slow; a button shows the others.
const ROWS_AT_ONCE = 100;

/**
 * A table that can be sorted; J and K move between its rows. On narrow screens a row is a
 * card, so that nothing scrolls sideways.
 */
export function Table<T>(props: TableProps<T>) {
  const { id, caption, columns, rows, rowKey, sort = "", empty, rowClass } = props;
  const [limit, setLimit] = useState(ROWS_AT_ONCE);
  const order = readSort(route.value.options[`sort-${id}`] ?? sort);
  const column = columns.find(({ key }) => key === order.key);
  const sorted = column?.value
    ? sortRows(rows, column.value, order.isDescending)
    : [...rows];
  if (!rows.length && empty) return <>{empty}</>;
  const sortBy = (next: Column<T>) => {
    const first = next.isNumeric ?? false;
    const isDescending = next.key === order.key ? !order.isDescending : first;
    const text = writeSort({ key: next.key, isDescending });
    navigate({ options: { ...route.value.options, [`sort-${id}`]: text } }, true);
  };
  return (
    <div class="table-scroll" tabIndex={-1}>
      <table id={id} class="rows" onKeyDown={moveBetweenRows}>
        <caption class="hidden">{caption}</caption>
        <thead>
          <tr>
            {columns.map((each) => (
              <th
                key={each.key}
                scope="col"
                class={cellClass(each)}
                aria-sort={each.key === order.key ? ariaSort(order) : undefined}
              >
                {each.value ? (
                  <button type="button" onClick={() => sortBy(each)}>
                    {each.label}
                  </button>
                ) : (
                  each.label
                )}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {sorted.slice(0, limit).map((row) => (
            <Row key={rowKey(row)} row={row} columns={columns} name={rowClass?.(row)} />
          ))}
        </tbody>
      </table>
      {sorted.length > limit && (
        <button type="button" class="more" onClick={() => setLimit(limit * 10)}>
          Show more ({formatCount(sorted.length - limit)} left)
        </button>
      )}
    </div>
  );
}

const ariaSort = (order: { isDescending: boolean }) =>
  order.isDescending ? "descending" : "ascending";

const STEPS: Record<string, number> = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 };

/** Moves the focus to the link of the next or the previous row. */
function moveBetweenRows(event: KeyboardEvent) {
  const step = STEPS[event.key];
  const target = event.target as HTMLElement;
  const row = target.closest("tbody tr");
  if (!step || !row || event.ctrlKey || event.altKey || event.metaKey) return;
  let next = row;
  for (;;) {
    const sibling = step > 0 ? next.nextElementSibling : next.previousElementSibling;
    if (!sibling) return;
    next = sibling;
    const link = next.querySelector<HTMLElement>("a, button");
    if (link) {
      event.preventDefault();
      link.focus();
      return;
    }
  }
}
