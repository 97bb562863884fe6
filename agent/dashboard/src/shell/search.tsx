import { useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Rule } from "../alerts/types";
import type { EndedRun, RunInProgress, Runs } from "../api/types";
import type { ModelCalls } from "../node/types";
import { live } from "../state/live";
import { request } from "../api/client";
import { usePolled, useRequest } from "../state/polled";
import { navigate, type Route } from "../state/route";
import { Dialog } from "../ui/dialog";
import { formatTime } from "../ui/format";
import { NOTHING, VIEWS } from "./navigation";
import { findEntries, runPrefix, type Entry } from "./search-entries";

type Target = Entry & { to: Partial<Route> };

const MAX_SHOWN = 12;

/** Searches everything that has a name or an id, from views to runs that ended. */
export function Search({ onClose }: { onClose: () => void }) {
  const [text, setText] = useState("");
  const [active, setActive] = useState(0);
  const input = useRef<HTMLInputElement>(null);
  const targets = [...useTargets(), ...useRuns(runPrefix(text))];
  const matches = findEntries(targets, text).slice(0, MAX_SHOWN);
  useLayoutEffect(() => input.current?.focus(), []);
  const open = (target: Target | undefined) => {
    if (!target) return;
    onClose();
    navigate({ ...NOTHING, ...target.to });
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && matches.length) {
      event.preventDefault();
      setActive((active + step + matches.length) % matches.length);
    } else if (event.key === "Enter") {
      event.preventDefault();
      open(matches[active]);
    }
  };
  return (
    <Dialog label="Search" onClose={onClose}>
      <input
        ref={input}
        class="search-input"
        type="text"
        role="combobox"
        aria-label="Search views, services, graphs, nodes, runs, alerts, rules, models and processes"
        aria-expanded={matches.length > 0}
        aria-controls="search-results"
        aria-activedescendant={matches.length ? `search-result-${active}` : undefined}
        placeholder="Graph, node, service, run, alert, model, process …"
        autocomplete="off"
        spellcheck={false}
        value={text}
        onInput={(event) => (setText(event.currentTarget.value), setActive(0))}
        onKeyDown={onKeyDown}
      />
      <ul id="search-results" role="listbox" aria-label="Results">
        {matches.map((match, index) => (
          <li
            key={`${match.kind} ${match.context} ${match.name}`}
            id={`search-result-${index}`}
            role="option"
            aria-selected={index === active}
            onPointerMove={() => setActive(index)}
            onClick={() => open(match)}
          >
            <span class="kind">{match.kind}</span> {match.name}
            {match.context && <span class="context"> {match.context}</span>}
          </li>
        ))}
      </ul>
      {matches.length === 0 && (
        <p class="quiet">Nothing has a name or an id like “{text}”.</p>
      )}
    </Dialog>
  );
}

interface Process {
  client: string;
  service: string;
  host: string;
  pid: number;
}

/** Runs whose id begins like this: ended ones, and what the stream has no room for. */
function useRuns(prefix: string | null): Target[] {
  const { value } = usePolled<Runs>(
    prefix,
    (stop) =>
      request<Runs>(
        "api/v1/runs",
        { run_prefix: prefix, limit: MAX_SHOWN },
        { signal: stop },
      ),
    null,
  );
  return useMemo(() => {
    const known = new Set(live.value?.runs.map(({ run }) => run));
    return [
      ...(value?.in_progress ?? [])
        .filter(({ run }) => !known.has(run))
        .map(progressTarget),
      ...(value?.ended ?? []).map(endedTarget),
    ];
  }, [value]);
}

function progressTarget({ service, graph, run, node }: RunInProgress): Target {
  const place = placeText(service, graph);
  return target("Run", run, `${place}, in progress at ${node}`, {
    view: "runs",
    ...{ service, graph, run },
  });
}

function endedTarget({ service, graph, run, node, outcome, time }: EndedRun): Target {
  const end = outcome === "error" ? "failed at" : "went on after a failure at";
  const place = placeText(service, graph);
  return target("Run", run, `${place}, ${end} ${node}, ${formatTime(time)}`, {
    view: "graph",
    ...{ service, graph, run },
  });
}

const placeText = (...names: string[]) => names.filter(Boolean).join(" / ");

/** All targets: those of the stream at once, the others when they have arrived. */
function useTargets(): Target[] {
  const rules = useRequest<{ rules: Rule[] }>("api/v1/rules", {}, null).value;
  const calls = useRequest<ModelCalls>("api/v1/llm", { window: "24h" }, null).value;
  const processes = useRequest<{ clients: Process[] }>(
    "api/v1/clients",
    {},
    null,
  ).value;
  return useMemo(
    () => [
      ...listTargets(),
      ...(rules?.rules ?? []).map(({ rule }) =>
        target("Rule", rule, "", { view: "alerts", options: { rule } }),
      ),
      ...(calls?.models ?? []).map(({ model }) =>
        target("Model", model, "", { view: "models", options: { model } }),
      ),
      ...(processes?.clients ?? []).map(({ service, host, pid }) =>
        target("Process", String(pid), [service, host].filter(Boolean).join(" on "), {
          view: "processes",
          service,
        }),
      ),
    ],
    [live.value, rules, calls, processes],
  );
}

function listTargets(): Target[] {
  const { graphs = [], nodes = [], alerts = [], runs = [] } = live.value ?? {};
  const services = [...new Set([...graphs, ...nodes].map(({ service }) => service))];
  return [
    ...VIEWS.map(({ view, label }) => target("View", label, "", { view })),
    ...services.map((service) =>
      target("Service", service, "", { view: "overview", service }),
    ),
    ...graphs.map(({ service, graph }) =>
      target("Graph", graph, service, { view: "graph", service, graph }),
    ),
    ...nodes.map(({ service, graph, node }) =>
      target("Node", node, placeText(service, graph), {
        view: "node",
        ...{ service, graph, node },
      }),
    ),
    ...runs.map(progressTarget),
    ...alerts.map(({ id, rule, summary }) =>
      target("Alert", rule, summary, { view: "alerts", alert: id }),
    ),
  ];
}

function target(
  kind: string,
  name: string,
  context: string,
  to: Partial<Route>,
): Target {
  return { kind, name, context, to };
}
