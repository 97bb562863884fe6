import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";

interface DialogProps {
  label: string;
  children: ComponentChildren;
  /** Called by Escape or a click outside; without it the dialog stays. */
  onClose?: () => void;
}

/** A modal dialog: the focus stays in it, and returns to where it was. */
export function Dialog({ label, children, onClose }: DialogProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  // At once: what is typed next is for the dialog.
  useLayoutEffect(() => {
    const element = dialog.current;
    element?.showModal();
    return () => element?.close();
  }, []);
  return (
    <dialog
      ref={dialog}
      aria-label={label}
      onCancel={(event) => {
        event.preventDefault();
        onClose?.();
      }}
      onClick={(event) => event.target === dialog.current && onClose?.()}
    >
      <div class="dialog-body">{children}</div>
    </dialog>
  );
}
