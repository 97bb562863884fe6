// What the shapes, colours and lines of the graph mean.
import { exampleOf, METRICS, STATES, type MetricName } from "./find";
import type { HealthStatus } from "./health";
import { StatusShape } from "./marks";

const STATUSES: [HealthStatus, string][] = [
  ["good", "within its thresholds and its usual values"],
  ["warning", "worse than usual, or runs end there at an action without an edge"],
  ["bad", "breaches the threshold of a rule, or an alert fires"],
  ["idle", "no executions, or never reached (dashed)"],
  ["unknown", "nothing to compare with: no rule, and too little history"],
];

const BADGES: [symbol: string, meaning: string][] = [
  ["⊣ 3 dead", "runs ended at an action without an edge"],
  ["● 2", "executions in flight"],
  ["↻ 12", "retries: calls of exec after the first"],
  ["↪ 4", "errors that exec_fallback or on_error has hidden"],
  ["↺ ×5", "the most visits of one run within the last hour"],
  ["$0.42", "cost of its model calls"],
  ["⊣ 80", "runs that ended here"],
];

export function Legend() {
  return (
    <div class="legend">
      <section>
        <h3>Nodes</h3>
        <ul>
          {STATUSES.map(([status, meaning]) => (
            <li key={status}>
              <svg width="16" height="16" viewBox="-8 -8 16 16" aria-hidden="true">
                <StatusShape status={status} />
              </svg>
              <b>{status}</b> {meaning}
            </li>
          ))}
        </ul>
        <p>
          The height, and the bar at the lower edge, show the share of time. The colour
          compares with a rule or with the node's own past, never with a constant.
        </p>
      </section>
      <section>
        <h3>On nodes</h3>
        <ul>
          {BADGES.map(([symbol, meaning]) => (
            <li key={symbol}>
              <code>{symbol}</code> {meaning}
            </li>
          ))}
        </ul>
      </section>
      <section>
        <h3>Edges</h3>
        <p>
          As wide as their traffic, with the action and its share among all actions of
          the node; the only edge of a node has its count instead. A coloured dashed
          edge leads back, with its repeats per run on average; a thin dotted one was
          not taken.
        </p>
      </section>
      <section class="language">
        <h3>Find and hide</h3>
        <p>
          Compare a figure, name a state, or type a part of a name; combine them by{" "}
          <code>and</code>, <code>or</code>, <code>not</code> and brackets.{" "}
          <code>*</code> stands for any text; quotes for a whole name.
        </p>
        <dl>
          {Object.entries(METRICS).map(([name, [, meaning]]) => (
            <div key={name}>
              <dt>
                <code>{exampleOf(name as MetricName)}</code>
              </dt>
              <dd>{meaning}</dd>
            </div>
          ))}
          {Object.entries(STATES).map(([name, meaning]) => (
            <div key={name}>
              <dt>
                <code>{name}</code>
              </dt>
              <dd>{meaning}</dd>
            </div>
          ))}
        </dl>
      </section>
      <section>
        <h3>Keys</h3>
        <p>
          Arrows move along edges, <kbd>Enter</kbd> opens a node, <kbd>Space</kbd>{" "}
          expands a nested graph, <kbd>Esc</kbd> closes. <kbd>+</kbd> <kbd>−</kbd> zoom,{" "}
          <kbd>0</kbd> shows the whole, <kbd>Shift</kbd> and arrows pan.
        </p>
      </section>
    </div>
  );
}
