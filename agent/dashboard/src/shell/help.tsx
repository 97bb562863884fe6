import { Dialog } from "../ui/dialog";
import { VIEWS } from "./navigation";

const KEYS: readonly (readonly [string, string])[] = [
  ["/ or Ctrl+K", "Search everything"],
  ["?", "Show this list"],
  ...VIEWS.map(({ label }, index) => [String(index + 1), `Open ${label}`] as const),
  ["[ and ]", "Shorter and longer time range"],
  ["P", "Pause, or go on live"],
  ["J and K", "Next and previous row of a table"],
  ["Esc", "Close"],
];

/** The keyboard shortcuts. */
export function Help({ onClose }: { onClose: () => void }) {
  return (
    <Dialog label="Keyboard shortcuts" onClose={onClose}>
      <h2>Keyboard shortcuts</h2>
      <dl class="keys">
        {KEYS.map(([key, text]) => (
          <div key={key}>
            <dt>
              <kbd>{key}</kbd>
            </dt>
            <dd>{text}</dd>
          </div>
        ))}
      </dl>
      <button type="button" onClick={onClose} autofocus>
        Close
      </button>
    </Dialog>
  );
}
