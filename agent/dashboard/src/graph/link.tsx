import type { ComponentChildren } from "preact";
import { formatRoute, navigate, route, type Route } from "../state/route";
export function Link({
  to,
  children,
}: {
  to: Partial<Route>;
  children: ComponentChildren;
}) {
  return (
    <a
      href={formatRoute({ ...route.value, ...to })}
      onClick={(event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        navigate(to);
      }}
    >
      {children}
    </a>
  );
}
