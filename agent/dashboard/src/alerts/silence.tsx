import { useState } from "preact/hooks";
import { ApiError, send } from "../api/client";
import { useRequest } from "../state/polled";
import { token } from "../state/token";
import { formatTime } from "../ui/format";
import { ErrorNotice, Panel } from "../ui/panel";
import type { Alert, Silence } from "./types";

const DURATIONS = {
  "30 minutes": 1800,
  "1 hour": 3600,
  "4 hours": 14_400,
  "1 day": 86_400,
};

/** Mutes the notifications of an alert, with a reason. */
export function SilenceForm({ alert, onDone }: { alert: Alert; onDone: () => void }) {
  const [reason, setReason] = useState("");
  const [seconds, setSeconds] = useState(3600);
  const [outcome, setOutcome] = useState<Error | string | null>(null);
  const silence = async () => {
    const end = new Date(Date.now() + seconds * 1000).toISOString();
    try {
      await send("POST", "api/v1/silences", {
        matchers: matchers(alert),
        endsAt: end,
        createdBy: "web page",
        comment: reason,
      });
      setOutcome(`Silenced until ${formatTime(Date.parse(end) / 1000)}.`);
      onDone();
    } catch (error) {
      setOutcome(error as Error);
    }
  };
  return (
    <form
      class="form-row"
      onSubmit={(event) => {
        event.preventDefault();
        void silence();
      }}
    >
      <label>
        Reason
        <input
          name="reason"
          required
          maxLength={500}
          value={reason}
          onInput={(event) => setReason(event.currentTarget.value)}
        />
      </label>
      <label>
        For
        <select
          value={seconds}
          onChange={(event) => setSeconds(Number(event.currentTarget.value))}
        >
          {Object.entries(DURATIONS).map(([label, value]) => (
            <option key={label} value={value}>
              {label}
            </option>
          ))}
        </select>
      </label>
      <button type="submit">Silence</button>
      {token.value !== null && <p class="quiet">This needs an admin token.</p>}
      <Outcome outcome={outcome} />
    </form>
  );
}

function Outcome({ outcome }: { outcome: Error | string | null }) {
  if (outcome === null) return null;
  if (typeof outcome === "string") return <p role="status">{outcome}</p>;
  const isForbidden =
    outcome instanceof ApiError && (outcome.status === 401 || outcome.status === 403);
  return (
    <>
      <ErrorNotice error={outcome} />
      {isForbidden && (
        <p>Silences need an admin token: log in with one and try again.</p>
      )}
    </>
  );
}

/** Returns matchers for one alert: its rule and its labels. */
function matchers(alert: Alert) {
  return Object.entries({ alertname: alert.rule, ...alert.labels })
    .filter(([, value]) => value)
    .map(([name, value]) => ({ name, value, isRegex: false, isEqual: true }));
}

/** The silences in effect; those that are not configured have a button that ends them. */
export function Silences() {
  const { value } = useRequest<{ silences: Silence[] }>("api/v1/silences", {
    state: "active",
  });
  const [error, setError] = useState<Error | null>(null);
  const [ended, setEnded] = useState<string[]>([]);
  const silences = value?.silences.filter(({ id }) => !ended.includes(id)) ?? [];
  const expire = (id: string) =>
    send("DELETE", `api/v1/silences/${encodeURIComponent(id)}`, undefined)
      .then(() => setEnded([...ended, id]))
      .catch(setError);
  if (!silences.length) return null;
  return (
    <Panel title="Silences">
      {error && <ErrorNotice error={error} />}
      <ul class="alert-list">
        {silences.map((silence) => (
          <li key={silence.id}>
            <span>{silence.matchers.map(matcherText).join(", ")}</span>
            <span class="quiet">
              {silence.comment} {silence.createdBy && `(${silence.createdBy})`}
            </span>
            <time>until {formatTime(Date.parse(silence.endsAt) / 1000)}</time>
            {!silence.configured && (
              <button
                type="button"
                aria-label={`Expire the silence of ${silence.matchers.map(matcherText).join(", ")}`}
                onClick={() => void expire(silence.id)}
              >
                Expire
              </button>
            )}
          </li>
        ))}
      </ul>
    </Panel>
  );
}

function matcherText({ name, value, isRegex, isEqual }: Silence["matchers"][number]) {
  const operators = isEqual ? ["=", "=~"] : ["!=", "!~"];
  return `${name}${operators[Number(isRegex)]}${value}`;
}
