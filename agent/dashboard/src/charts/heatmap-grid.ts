// The geometry of a heatmap: row 0 is at the bottom.

export interface Grid {
  left: number;
  width: number;
  height: number;
  columns: number;
  rows: number;
}

/** Returns the column and the row at a pixel; [-1, -1] outside the cells. */
export function cellAt(grid: Grid, x: number, y: number): [number, number] {
  const column = Math.floor(((x - grid.left) / grid.width) * grid.columns);
  const row = Math.floor(((grid.height - y) / grid.height) * grid.rows);
  const isInside = column >= 0 && column < grid.columns && row >= 0 && row < grid.rows;
  return isInside ? [column, row] : [-1, -1];
}

/** Returns the opacity of a count: a single execution can still be seen. */
export function shade(count: number, most: number): number {
  return 0.15 + 0.85 * Math.sqrt(count / most);
}
