import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";

interface PanelProps {
  title: ComponentChildren;
  children: ComponentChildren;
  /** On the right of the title. */
  actions?: ComponentChildren;
  class?: string;
}

/** A titled part of a view. */
export function Panel({ title, children, actions, class: name = "" }: PanelProps) {
  const id = useId();
  return (
    <section class={`panel ${name}`} aria-labelledby={id}>
      <header>
        <h2 id={id}>{title}</h2>
        {actions}
      </header>
      {children}
    </section>
  );
}

/** Stands where there is nothing to show, and says what to do. */
export function Empty({
  title,
  children,
}: {
  title: string;
  children?: ComponentChildren;
}) {
  return (
    <div class="empty">
      <p class="title">{title}</p>
      {children}
    </div>
  );
}

/** Holds the place of what is still loading. */
export function Skeleton({ lines = 3 }: { lines?: number }) {
  return (
    <div class="skeleton" role="status" aria-label="Loading">
      {Array.from({ length: lines }, (_, line) => (
        <div key={line} />
      ))}
    </div>
  );
}

/** A failed request, with the agent's hint. */
export function ErrorNotice({ error }: { error: Error & { hint?: string } }) {
  return (
    <div class="notice bad" role="alert">
      <b>{error.message}</b>
      {error.hint && <span> {error.hint}</span>}
    </div>
  );
}
