import { agentTime } from "../state/live";
import { navigate, route } from "../state/route";
import { formatTime } from "../ui/format";

export const WINDOWS: readonly (readonly [string, string])[] = [
  ["1m", "1 minute"],
  ["5m", "5 minutes"],
  ["15m", "15 minutes"],
  ["1h", "1 hour"],
  ["6h", "6 hours"],
  ["24h", "24 hours"],
  ["7d", "7 days"],
  ["30d", "30 days"],
];

/** Selects the length of the time range, and its end. */
export function TimeRange() {
  const { window, end } = route.value;
  const isListed = WINDOWS.some(([value]) => value === window);
  return (
    <div class="time-range">
      <label>
        <span class="hidden">Time range</span>
        <select
          value={window}
          onChange={(event) => navigate({ window: event.currentTarget.value })}
        >
          {!isListed && <option value={window}>Last {window}</option>}
          {WINDOWS.map(([value, label]) => (
            <option key={value} value={value}>
              {end === null ? "Last " : ""}
              {label}
            </option>
          ))}
        </select>
      </label>
      {end === null ? (
        <button
          type="button"
          title="Stop here, to look at this moment or an earlier one"
          onClick={() => navigate({ end: Math.floor(agentTime.value) })}
        >
          Pause
        </button>
      ) : (
        <>
          <label>
            until{" "}
            <input
              type="datetime-local"
              step="1"
              value={localText(end)}
              onChange={(event) => setEnd(event.currentTarget.value)}
              aria-label={`End of the time range, now ${formatTime(end)}`}
            />
          </label>
          <button type="button" onClick={() => navigate({ end: null })}>
            Now
          </button>
        </>
      )}
    </div>
  );
}

/** Changes to the next longer (1) or shorter (-1) time range. */
export function stepWindow(step: 1 | -1): void {
  const index = WINDOWS.findIndex(([value]) => value === route.value.window);
  const next = WINDOWS[Math.min(WINDOWS.length - 1, Math.max(0, index + step))];
  if (next) navigate({ window: next[0] });
}

function setEnd(text: string): void {
  const time = new Date(text).getTime() / 1000;
  if (Number.isFinite(time)) navigate({ end: time });
}

function localText(time: number): string {
  const local = new Date(
    (time - new Date(time * 1000).getTimezoneOffset() * 60) * 1000,
  );
  return local.toISOString().slice(0, 19);
}
