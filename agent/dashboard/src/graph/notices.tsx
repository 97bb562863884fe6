// What the reader must know about the drawing, in words.
import { COMPARISONS, hasFigures } from "./compare";
import { Link } from "../ui/link";
import type { TopologyTree } from "./load";
import type { GraphOptions } from "./options";
import type { Scene } from "./scene";

interface NoticesProps {
  error: Error | null;
  scene: Scene | null;
  isDrawn: boolean;
  tree: TopologyTree | null;
  earlier: TopologyTree | null;
  options: GraphOptions;
  /** What is known of the run of the address. */
  runText: string | null;
  /** Nodes of the run that are not in the drawing. */
  missing: readonly string[];
}

export function Notices(props: NoticesProps) {
  const notices = listNotices(props);
  return (
    <div class="graph-notices" aria-live="polite">
      {notices.map((notice) => (
        <p key={notice} class="notice warning">
          {notice}
        </p>
      ))}
      {props.runText !== null && (
        <Link to={{ run: null }}>Show the graph without the run</Link>
      )}
    </div>
  );
}

function listNotices(props: NoticesProps): string[] {
  const { error, scene, isDrawn, tree, earlier, options, runText, missing } = props;
  const notices: string[] = [];
  if (error) notices.push(`The graph could not be loaded: ${error.message}`);
  if (scene && !isDrawn) {
    notices.push(
      `${scene.nodes.length} nodes are too many for a drawing; the table has all of them.`,
    );
  } else if (scene?.reason) {
    notices.push(`${scene.reason} This is a simple drawing in layers.`);
  }
  if (options.compare === "change" && tree && tree.topology.changed === null) {
    notices.push(
      "The graph has not changed as far as is known: nothing to compare with.",
    );
  } else if (earlier && !hasFigures(earlier.topology)) {
    notices.push(
      `No executions in the period to compare with (${COMPARISONS[options.compare!]}).`,
    );
  }
  if (runText !== null) notices.push(runText);
  if (missing.length) notices.push(`Not in the drawing: ${missing.join(", ")}.`);
  return notices;
}
