// A row of a table. Strategy: a row is rendered again only if it has changed, and off
// screen every few seconds only, as most rows of a long table are.
import { Component, createRef, type ComponentChildren } from "preact";
import type { SortValue } from "./sort";

export interface Column<T> {
  key: string;
  label: string;
  /** What it is sorted by; without it the column cannot be sorted. */
  value?: (row: T) => SortValue;
  cell: (row: T) => ComponentChildren;
  /** The exact figure. */
  title?: (row: T) => string | undefined;
  isNumeric?: boolean;
  /** Left out on narrow screens. */
  isMinor?: boolean;
  /** Says what it is about, so that it has no label where a row is a card. */
  isSentence?: boolean;
}

/** Returns the class of a column's cells. */
export const cellClass = <T,>({ isNumeric, isMinor, isSentence }: Column<T>) =>
  [isNumeric && "number", isMinor && "minor", isSentence && "sentence"]
    .filter(Boolean)
    .join(" ") || undefined;

interface RowProps<T> {
  row: T;
  columns: readonly Column<T>[];
  /** Its class. */
  name: string | undefined;
}

// Programs read what is off screen, too: a search of the browser, a screen reader.
const OFF_SCREEN_MS = 5000;

interface Observed {
  show(isOnScreen: boolean): void;
  forceUpdate(): void;
}

const observed = new WeakMap<Element, Observed>();
const observer = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    observed.get(target)?.show(isIntersecting);
  }
});
const outdated = new Set<Observed>();
let isScheduled = false;

function scheduleUpdate(): void {
  if (isScheduled) return;
  isScheduled = true;
  setTimeout(updateOffScreen, OFF_SCREEN_MS);
}

// Rows are rendered later: those that become outdated until then need a timer of their own.
function updateOffScreen(): void {
  isScheduled = false;
  for (const row of outdated) row.forceUpdate();
}

/** The cells of a row. */
export class Row<T> extends Component<RowProps<T>> implements Observed {
  private readonly element = createRef<HTMLTableRowElement>();
  private isOnScreen = true;

  override componentDidMount(): void {
    observed.set(this.element.current!, this);
    observer.observe(this.element.current!);
  }

  override componentWillUnmount(): void {
    observer.unobserve(this.element.current!);
    outdated.delete(this);
  }

  /** Takes note of whether it is on screen. */
  show(isOnScreen: boolean): void {
    this.isOnScreen = isOnScreen;
    if (isOnScreen && outdated.has(this)) this.forceUpdate();
  }

  // A new state means that a signal that a cell reads has changed.
  override shouldComponentUpdate(next: RowProps<T>, state: object): boolean {
    const { row, columns, name } = this.props;
    const isSame = next.row === row && next.columns === columns && next.name === name;
    if (isSame && state === this.state) return false;
    if (this.isOnScreen) return true;
    outdated.add(this);
    scheduleUpdate();
    return false;
  }

  override render({ row, columns, name }: RowProps<T>) {
    outdated.delete(this);
    return (
      <tr ref={this.element} class={name}>
        {columns.map((each) => (
          <td
            key={each.key}
            class={cellClass(each)}
            title={each.title?.(row)}
            data-label={each.label}
          >
            {each.cell(row)}
          </td>
        ))}
      </tr>
    );
  }
}
