import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";

/** Shows a text on hover and on focus. */
export function Tooltip({
  text,
  children,
}: {
  text: string;
  children: ComponentChildren;
}) {
  const id = useId();
  return (
    <span class="tooltip" tabIndex={0} aria-describedby={id}>
      {children}
      <span role="tooltip" id={id}>
        {text}
      </span>
    </span>
  );
}
