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
  const notices = [connectionNotice(), healthNotice(), completenessNotice()];
  return <div class="notices">{notices}</div>;
}

function connectionNotice() {
  const { state, since, error } = connection.value;
  if (loginReason.value !== null) return null;
  const shown = live.value
    ? `: figures are those of ${formatTime(live.value.time)}`
    : "";
  if (state === "disconnected") {
    const duration = formatDuration(Math.max(0, Math.floor(localTime.value - since)));
    return (
      <p key="connection" class="notice bad" role="alert">
        <b>Disconnected</b> for {duration}
        {shown}. {error && `Reason: ${error}. `}The page reconnects by itself.
      </p>
    );
  }
  if (!isStale.value) return null;
  const silent = formatDuration(Math.floor(localTime.value - arrival.value));
  return (
    <p key="connection" class="notice warning">
      <b>Stale</b>: no update for {silent}
      {shown}.
    </p>
  );
}

function healthNotice() {
  const health = live.value?.health;
  if (!health || health.status === "healthy") return null;
  const problems = health.stages.filter(({ status }) => status !== "healthy");
  return (
    <p
      key="health"
      class={`notice ${health.status === "unhealthy" ? "bad" : "warning"}`}
    >
      <b>The agent is {health.status}</b>:{" "}
      {problems.map(({ name, detail }) => `${name}: ${detail}`).join("; ")}
    </p>
  );
}

function completenessNotice() {
  const completeness = live.value?.completeness;
  if (!completeness || completeness.ratio === null || completeness.ratio >= 1)
    return null;
  const { ratio, dropped } = completeness;
  return (
    <p key="completeness" class="notice warning">
      <b>Incomplete</b>: {formatShare(ratio)} of the events of the last{" "}
      {live.value?.window} arrived
      {dropped > 0 && `, ${formatCount(dropped)} were lost`}.{" "}
      <Link to={{ view: "processes" }}>Which processes lost them</Link>
    </p>
  );
}
