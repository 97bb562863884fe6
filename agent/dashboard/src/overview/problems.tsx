import { useState } from "preact/hooks";
import type { Problem } from "../api/types";
import { useRequest } from "../state/polled";
import { route } from "../state/route";
import { severityLevel, StatusMark } from "../ui/badge";
import { Age } from "../ui/age";
import { formatCount, formatPlural, formatTime, windowSeconds } from "../ui/format";
import { Link } from "../ui/link";
import { ErrorNotice, Panel, Skeleton } from "../ui/panel";
import { isShownBy, placeOf, targetOf } from "./problem-link";

const REFRESH_SECONDS = 5;
// A longer window would hide what changed within it.
const MAX_WINDOW = "15m";
const FIRST = 6;

interface ProblemList {
  matching: number;
  problems: Problem[];
}

/** Requests the problems of the present. */
function useProblems(service: string | null) {
  const { window } = route.value;
  return useRequest<ProblemList>(
    "api/v1/problems",
    {
      window: windowSeconds(window) > windowSeconds(MAX_WINDOW) ? MAX_WINDOW : window,
      service,
    },
    REFRESH_SECONDS,
  );
}

/** What is wrong now: a sentence for each problem, with a link to the view that shows it. */
export function Problems({ service }: { service: string | null }) {
  const [isWhole, setIsWhole] = useState(false);
  const { value, error } = useProblems(service);
  if (!value) return error ? <ErrorNotice error={error} /> : <Skeleton lines={2} />;
  const { problems, matching } = value;
  const actions = <Link to={{ view: "alerts" }}>All alerts and rules</Link>;
  if (!matching) {
    return (
      <Panel title="Problems" class="problems" actions={actions}>
        <p>
          <StatusMark level="good" /> None: no node fails or is slow, no run is stuck,
          goes in circles or stops at a dead end, and no process has died.
        </p>
      </Panel>
    );
  }
  const shown = isWhole ? problems : problems.slice(0, FIRST);
  return (
    <Panel
      title={<Title matching={matching} problems={problems} />}
      class="problems"
      actions={actions}
    >
      {error && <ErrorNotice error={error} />}
      <ul>
        {shown.map((problem) => (
          <Row key={keyOf(problem)} problem={problem} />
        ))}
      </ul>
      {matching > shown.length && !isWhole && (
        <button type="button" class="more" onClick={() => setIsWhole(true)}>
          Show {formatCount(matching - shown.length)} more
        </button>
      )}
    </Panel>
  );
}

/** The number of problems, and of the alerts that fire for them. */
function Title({ matching, problems }: ProblemList) {
  const alerts = new Set(problems.flatMap((each) => each.alerts.map(({ id }) => id)));
  return (
    <>
      {formatPlural(matching, "problem")}
      {alerts.size > 0 && (
        <span class="quiet">, with {formatPlural(alerts.size, "firing alert")}</span>
      )}
    </>
  );
}

/** The problems that the present view shows, above it; nothing without any. */
export function ProblemsHere() {
  const { value } = useProblems(route.value.service);
  const here =
    value?.problems.filter((problem) => isShownBy(route.value, problem)) ?? [];
  if (!here.length) return null;
  return (
    <section class="panel problems here" aria-label="Problems here">
      <ul>
        {here.slice(0, FIRST).map((problem) => (
          <Row key={keyOf(problem)} problem={problem} />
        ))}
      </ul>
    </section>
  );
}

const keyOf = ({ kind, service, graph, node, run, alerts, text }: Problem) =>
  JSON.stringify([
    ...[kind, service, graph, node, run],
    kind === "alert" ? alerts[0]?.id : text,
  ]);

function Row({ problem }: { problem: Problem }) {
  const { severity, text, details, alerts } = problem;
  return (
    <li>
      <StatusMark level={severityLevel(severity)} />
      <div>
        <span class="hidden">{severity}: </span>
        <Link to={targetOf(problem)} class="sentence">
          <b>{placeOf(problem) || alerts[0]?.rule}: </b>
          {text}
          <Since problem={problem} />
        </Link>
        {details.length > 0 && <span class="details">; {details.join("; ")}</span>}
        {alerts.length > 0 && <Alerts {...problem} />}
      </div>
    </li>
  );
}

/** Its alerts by rule, with their nodes where the problem is about several of them. */
function Alerts({ alerts, node: own }: Problem) {
  const byRule = new Map<string, Problem["alerts"]>();
  for (const alert of alerts) {
    byRule.set(alert.rule, [...(byRule.get(alert.rule) ?? []), alert]);
  }
  return (
    <span class="details">
      ; {alerts.length === 1 ? "alert" : "alerts"}{" "}
      {[...byRule].map(([rule, [first, ...more]], index) => (
        <span key={rule}>
          {index > 0 && ", "}
          {first && (more.length || (first.node && first.node !== own)) ? (
            <>
              {rule} of <NodeLinks alerts={[first, ...more]} />
            </>
          ) : (
            <Link to={{ view: "alerts", alert: first?.id ?? null }}>{rule}</Link>
          )}
        </span>
      ))}
    </span>
  );
}

function NodeLinks({ alerts }: Pick<Problem, "alerts">) {
  return (
    <>
      {alerts.map(({ id, node, rule }, index) => (
        <span key={id}>
          {index > 0 && ", "}
          <Link to={{ view: "alerts", alert: id }}>{node || rule}</Link>
        </span>
      ))}
    </>
  );
}

// Of these, the agent looks for the beginning within the last hour.
const DATED: ReadonlySet<Problem["kind"]> = new Set([
  "failing",
  "slow",
  "dead_end",
  "masked_failures",
  "drift",
  "wasted_spend",
  "cost_per_run",
]);

// A text that ends with a value or with another time does not go on with a time.
const APART: ReadonlySet<Problem["kind"]> = new Set([
  "alert",
  "memory",
  "slow",
  "drift",
  "cost_per_run",
]);

// Their texts contain a duration; `since` is when it became too long.
const UNDATED: ReadonlySet<Problem["kind"]> = new Set(["silent", "never_reached"]);

/** When a problem began: if that was before all the agent looked at, for how long. */
function Since({ problem: { kind, since } }: { problem: Problem }) {
  if (UNDATED.has(kind)) return null;
  if (since === null) return DATED.has(kind) ? <> for at least 1 h</> : null;
  return (
    <>
      {APART.has(kind) && ","}
      {kind === "process_died" ? " at " : " since "}
      {formatTime(since).slice(0, -3)}{" "}
      <span class="quiet">
        (<Age time={since} />)
      </span>
    </>
  );
}
