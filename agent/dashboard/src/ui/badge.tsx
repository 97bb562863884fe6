import type { ComponentChildren } from "preact";

export type Level = "good" | "warning" | "bad" | "quiet" | "info";

// Colour is never the only difference. In a square of 16 units.
export const SHAPES: Record<Level, string> = {
  good: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2z",
  warning: "M8 2 15 14H1z",
  bad: "M8 1 15 8 8 15 1 8z",
  quiet: "M3 7h10v2H3z",
  info: "M3 3h10v10H3z",
};

/** The shape of a status. */
export function StatusMark({ level }: { level: Level }) {
  return (
    <svg class={`mark ${level}`} viewBox="0 0 16 16" aria-hidden="true">
      <path d={SHAPES[level]} />
    </svg>
  );
}

/** A status in one word, with its shape and colour. */
export function Badge({
  level,
  children,
  title,
}: {
  level: Level;
  children: ComponentChildren;
  title?: string | undefined;
}) {
  return (
    <span class={`badge ${level}`} title={title}>
      <StatusMark level={level} />
      {children}
    </span>
  );
}

/** Returns the level of an alert or of a severity. */
export function severityLevel(severity: string): Level {
  if (severity === "critical" || severity === "error") return "bad";
  return severity === "warning" ? "warning" : "info";
}
