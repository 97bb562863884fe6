import type { ComponentChildren } from "preact";
import { formatRoute, navigate, route, type Route } from "../state/route";

interface LinkProps {
  /** What changes in the route. */
  to: Partial<Route>;
  children: ComponentChildren;
  class?: string;
  title?: string | undefined;
  isCurrent?: boolean;
}

/** A link to another state of the page; a new tab shows the same. */
export function Link({ to, children, class: name, title, isCurrent }: LinkProps) {
  const open = (event: MouseEvent) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    navigate(to);
  };
  return (
    <a
      href={formatRoute({ ...route.value, ...to })}
      class={name}
      title={title}
      aria-current={isCurrent ? "page" : undefined}
      onClick={open}
    >
      {children}
    </a>
  );
}
