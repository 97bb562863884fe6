import { useComputed } from "@preact/signals";
import { agentTime } from "../state/live";
import { formatAge } from "./format";

/** How long ago something was; a new text changes the text alone. */
export function Age({ time }: { time: number | null }) {
  return <>{useComputed(() => formatAge(time, agentTime.value))}</>;
}
