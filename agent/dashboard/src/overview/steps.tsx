import { live } from "../state/live";
import { StatusMark } from "../ui/badge";
import { useRequest } from "../state/polled";

/** The way to the first data; each step is ticked off as it happens. */
export function FirstSteps() {
  const clients = useRequest<{ socket: string }>("api/v1/clients", {}, null).value;
  const socket = clients?.socket || null;
  const { processes = {}, nodes = [] } = live.value ?? {};
  const count = Object.values(processes).reduce((sum, each) => sum + each, 0);
  return (
    <section class="first-steps" aria-label="Steps to the first data">
      <h1>No data yet: three steps to the first graph</h1>
      <ol>
        <Step isDone={live.value !== null} title="Start the agent">
          <p>
            It is running{live.value && ` (version ${live.value.version})`}
            {socket && (
              <>
                {" "}
                and reads <code>{socket}</code>
              </>
            )}
            .
          </p>
        </Step>
        <Step isDone={count > 0} title="Start your application under kaywatch">
          <pre>kaywatch run -- python app.py</pre>
          <p>
            or call <code>kaywatch.instrument()</code> in it. The process appears here
            within a second.
          </p>
        </Step>
        <Step isDone={nodes.length > 0} title="Run a graph">
          <p>
            Its nodes appear with their first execution. To see all of this with an
            example: <code>kaywatch demo</code>.
          </p>
        </Step>
      </ol>
    </section>
  );
}

function Step({
  isDone,
  title,
  children,
}: {
  isDone: boolean;
  title: string;
  children: preact.ComponentChildren;
}) {
  return (
    <li class={isDone ? "done" : ""}>
      <h2>
        <StatusMark level={isDone ? "good" : "quiet"} />
        {title}
        <span class="hidden">{isDone ? " (done)" : " (not done yet)"}</span>
        {isDone && <span class="tick"> ✓</span>}
      </h2>
      {children}
    </li>
  );
}
