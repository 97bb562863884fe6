// What is known of one run, in words.
import type { EndedRun, RunInProgress } from "../api/types";
import { formatCount, formatMoney, formatNumber, formatTime, NONE } from "../ui/format";
import { describeReason } from "./order";

/** Returns what became of a run: it ended, is in progress, or is no longer known. */
export function describeRun(
  id: string,
  ended: EndedRun | null,
  inProgress: readonly RunInProgress[],
): string {
  if (ended !== null) return `${describeEnd(ended)}${describePathOf(ended)}`;
  const current = inProgress.find(({ run }) => run === id);
  if (current === undefined) return "The details of this run are no longer kept.";
  const since = current.start > 0 ? `, since ${formatTime(current.start)}` : "";
  return `Run ${id} is in progress at ${current.node}${since}. Its path is shown if it fails.`;
}

function describeEnd({ run, node, outcome, reason, action }: EndedRun): string {
  const name = `Run ${run || "without id"}`;
  if (outcome === "error")
    return `${name} ended at ${node}: ${describeReason(reason, action)}.`;
  const how =
    { fallback: "a fallback", suppressed: "on_error", ok: "a retry" }[
      outcome as string
    ] ?? "the graph";
  return `${name} went on after a failure at ${node}, which ${how} hid; its path is known up to there.`;
}

function describePathOf({ path, path_visits, visits }: EndedRun): string {
  if (!path.length) return " Its path is not known.";
  if (path.length === visits) return "";
  const counts = path_visits.length ? ", and how often it came there" : "";
  return ` It made ${visits} visits; the numbers are the order of first visits${counts}.`;
}

type Cost = Pick<RunInProgress, "cost_usd" | "tokens" | "unpriced_tokens">;

/** Returns what a run has cost so far, such as "$0.42 + 1,200 tokens without a price". */
export function describeCost({ cost_usd, unpriced_tokens }: Cost): string {
  const parts = [
    ...(cost_usd === null ? [] : [formatMoney(cost_usd)]),
    ...(unpriced_tokens
      ? [`${formatCount(unpriced_tokens)} tokens without a price`]
      : []),
  ];
  return parts.join(" + ") || NONE;
}

/** Returns the exact figures of what a run has cost; nothing without calls of models. */
export function exactCost({
  cost_usd,
  tokens,
  unpriced_tokens,
}: Cost): string | undefined {
  if (cost_usd === null && !tokens) return undefined;
  const cost = cost_usd === null ? "cost not known" : `${formatNumber(cost_usd)} USD`;
  const unpriced = unpriced_tokens
    ? `, ${formatNumber(unpriced_tokens)} of them without a price`
    : "";
  return `${cost}, ${formatNumber(tokens)} tokens so far${unpriced}`;
}
