// The order of a table's rows.

export type SortValue = number | string | null;

export interface Sort {
  key: string;
  isDescending: boolean;
}

/** Reads "p95" or "-p95". */
export function readSort(text: string): Sort {
  const isDescending = text.startsWith("-");
  return { key: isDescending ? text.slice(1) : text, isDescending };
}

/** Returns the text of an order. */
export function writeSort({ key, isDescending }: Sort): string {
  return isDescending ? `-${key}` : key;
}

/** Returns the rows in order; absent values come last in both directions. */
export function sortRows<Row>(
  rows: readonly Row[],
  value: (row: Row) => SortValue,
  isDescending: boolean,
): Row[] {
  const sign = isDescending ? -1 : 1;
  return [...rows].sort((a, b) => {
    const left = value(a);
    const right = value(b);
    if (left === null || right === null)
      return Number(left === null) - Number(right === null);
    return sign * compareValues(left, right);
  });
}

/** Compares numbers by size, and texts as people do: "node 9" before "node 10". */
export function compareValues(left: number | string, right: number | string): number {
  if (typeof left === "number" && typeof right === "number") return left - right;
  return NAMES.compare(String(left), String(right));
}

const NAMES = new Intl.Collator("en", { numeric: true });
