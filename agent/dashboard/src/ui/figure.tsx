import type { ComponentChildren } from "preact";
import { formatCount, formatPlural } from "./format";
import { Tooltip } from "./tooltip";

interface FigureProps {
  label: string;
  children: ComponentChildren;
  /** The exact figure, on hover and focus. */
  exact?: string | undefined;
  /** The number of events behind it. */
  n?: number | null;
  /** A second line. */
  note?: ComponentChildren;
}

/** One large figure with its label, and with n where it is a statistic. */
export function Figure({ label, children, exact, n, note }: FigureProps) {
  return (
    <div class="figure">
      <dt>{label}</dt>
      <dd>
        {exact ? <Tooltip text={exact}>{children}</Tooltip> : children}
        {n ? <Count n={n} /> : null}
        {note !== undefined && <div class="note">{note}</div>}
      </dd>
    </div>
  );
}

/** How many events a statistic is of. */
export function Count({ n }: { n: number }) {
  return (
    <span class="n" title={`of ${formatPlural(n, "execution")}`}>
      n={formatCount(n)}
    </span>
  );
}
