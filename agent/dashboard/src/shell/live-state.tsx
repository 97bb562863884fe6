import { computed } from "@preact/signals";
import { arrival, connection, isStale, live, localTime } from "../state/live";
import { route } from "../state/route";
import { loginReason } from "../state/token";
import { formatCount, formatDuration, formatShare, formatTime } from "../ui/format";
import { StatusMark, type Level } from "../ui/badge";
import { Link } from "../ui/link";

/** One word: live, stale, disconnected, or paused. */
export function LiveState() {
  const [level, text] = stateText();
  return (
    <span class="live-state" role="status">
      <StatusMark level={level} />
      {text}
    </span>
  );
}

function stateText(): [Level, string] {
  const { state } = connection.value;
  if (state === "disconnected") return ["bad", "Disconnected"];
  if (state === "connecting") return ["quiet", "Connecting"];
  if (isStale.value) return ["warning", "Stale"];
  return route.value.end === null ? ["good", "Live"] : ["info", "Paused"];
}

/** What qualifies all figures on the page: in words, at the top. */
export function Notices() {
  return (
    <div class="notices">
      <ConnectionNotice />
      <HealthNotice />
      <CompletenessNotice />
    </div>
  );
}

function ConnectionNotice() {
  const { state, since, error } = connection.value;
  if (loginReason.value !== null) return null;
  if (state !== "disconnected" && !isStale.value) return null;
  const shown = live.value
    ? `: figures are those of ${formatTime(live.value.time)}`
    : "";
  if (state === "disconnected") {
    const duration = formatDuration(Math.max(0, Math.floor(localTime.value - since)));
    return (
      <p class="notice bad" role="alert">
        <b>Disconnected</b> for {duration}
        {shown}. {error && `Reason: ${error}. `}The page reconnects by itself.
      </p>
    );
  }
  const silent = formatDuration(Math.floor(localTime.value - arrival.value));
  return (
    <p class="notice warning">
      <b>Stale</b>: no update for {silent}
      {shown}.
    </p>
  );
}

const health = computed(() => live.value?.health);

function HealthNotice() {
  if (!health.value || health.value.status === "healthy") return null;
  const { status, stages } = health.value;
  const problems = stages.filter(({ status }) => status !== "healthy");
  return (
    <p class={`notice ${status === "unhealthy" ? "bad" : "warning"}`}>
      <b>The kaywatch agent is {status}</b>:{" "}
      {problems.map(({ name, detail }) => `${name}: ${detail}`).join("; ")}
    </p>
  );
}

const completeness = computed(() => live.value?.completeness);
const streamedWindow = computed(() => live.value?.window);

function CompletenessNotice() {
  if (!completeness.value) return null;
  const { ratio, dropped, deaths, unknown_seconds: unknown } = completeness.value;
  if (ratio === null || ratio >= 1) return null;
  // A process that was killed between two batches is no reason to doubt the figures.
  const isMinor = dropped === 0 && ratio > 0.999;
  return (
    <p class={isMinor ? "note" : "notice warning"}>
      <b>Incomplete</b>: {formatShare(ratio)} of the events of the last {streamedWindow}{" "}
      arrived
      {dropped > 0 && `, ${formatCount(dropped)} were lost`}
      {deaths > 0 &&
        `, and those of the last ${formatDuration(unknown)} before ${deaths === 1 ? "a process" : `${formatCount(deaths)} processes`} died may be missing`}
      . <Link to={{ view: "processes" }}>Which processes lost them</Link>
    </p>
  );
}
