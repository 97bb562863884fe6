import { useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { live } from "../state/live";
import { navigate, type Route } from "../state/route";
import { Dialog } from "../ui/dialog";
import { NOTHING, VIEWS } from "./navigation";
import { findEntries, type Entry } from "./search-entries";

type Target = Entry & { to: Partial<Route> };

const MAX_SHOWN = 12;

/** Searches views, services, graphs, nodes and alerts by name. */
export function Search({ onClose }: { onClose: () => void }) {
  const [text, setText] = useState("");
  const [active, setActive] = useState(0);
  const input = useRef<HTMLInputElement>(null);
  const targets = useMemo(listTargets, [live.value]);
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
        aria-label="Search views, services, graphs, nodes and alerts"
        aria-expanded={matches.length > 0}
        aria-controls="search-results"
        aria-activedescendant={matches.length ? `search-result-${active}` : undefined}
        placeholder="Graph, node, service, alert …"
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
      {matches.length === 0 && <p class="quiet">Nothing has a name like “{text}”.</p>}
    </Dialog>
  );
}

function listTargets(): Target[] {
  const { graphs = [], nodes = [], alerts = [] } = live.value ?? {};
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
      target("Node", node, [service, graph].filter(Boolean).join(" / "), {
        view: "node",
        ...{ service, graph, node },
      }),
    ),
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
