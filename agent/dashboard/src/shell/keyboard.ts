import { agentTime } from "../state/live";
import { navigate, route } from "../state/route";
import { VIEWS } from "./navigation";
import { stepWindow } from "./time-range";

const TYPING = "input, select, textarea, [contenteditable], dialog";

/** Handles the shortcuts of all views; returns how to stop. */
export function listenToKeys(openSearch: () => void, openHelp: () => void): () => void {
  const actions: Record<string, () => void> = {
    "/": openSearch,
    "?": openHelp,
    "[": () => stepWindow(-1),
    "]": () => stepWindow(1),
    p: () =>
      navigate({ end: route.value.end === null ? Math.floor(agentTime.value) : null }),
  };
  VIEWS.forEach(({ view }, index) => {
    actions[String(index + 1)] = () => navigate({ view });
  });
  const onKey = (event: KeyboardEvent) => {
    const isSearch = event.key === "k" && (event.ctrlKey || event.metaKey);
    if (isSearch && !document.querySelector("dialog")) {
      event.preventDefault();
      openSearch();
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented)
      return;
    if ((event.target as HTMLElement).closest(TYPING)) return;
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  };
  document.addEventListener("keydown", onKey);
  return () => document.removeEventListener("keydown", onKey);
}
