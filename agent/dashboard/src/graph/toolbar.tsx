// The controls above the graph.
import { useState } from "preact/hooks";
import { COMPARISONS } from "./compare";
import { drawDocument, drawPicture } from "./export";
import type { Selection } from "./filter";
import { setOptions, type GraphOptions } from "./options";
import type { Scene } from "./scene";
import { describeSelection, SearchField } from "./search-field";
import { download, fileName } from "../ui/download";

const EMPTY: Selection = { keys: null, nodes: 0, edges: 0, error: null };

interface ToolbarProps {
  graph: string;
  options: GraphOptions;
  changed: number | null;
  scene: Scene | null;
  find: Selection | null;
  hide: Selection | null;
  svg: () => SVGSVGElement | null;
  onReplay: () => void;
}

export function GraphToolbar(props: ToolbarProps) {
  const { options, scene } = props;
  const names = scene?.nodes.map(({ node }) => node.node) ?? [];
  const find = props.find ?? EMPTY;
  const hide = props.hide ?? EMPTY;
  return (
    <div class="graph-toolbar">
      <SearchField
        label="Find"
        placeholder="error > 5%"
        value={options.find}
        names={names}
        selection={find}
        status={describeSelection(find, "found")}
        onChange={(text) => setOptions({ find: text })}
      />
      <SearchField
        label="Hide"
        placeholder="never"
        value={options.hide}
        names={names}
        selection={hide}
        status={describeSelection(hide, "hidden")}
        onChange={(text) => setOptions({ hide: text })}
      />
      <label class="compare">
        Compare with{" "}
        <select
          value={options.compare ?? ""}
          onChange={(event) =>
            setOptions({ compare: event.currentTarget.value }, false)
          }
        >
          <option value="">nothing</option>
          {Object.entries(COMPARISONS).map(([value, text]) => (
            <option key={value} value={value}>
              {text}
            </option>
          ))}
        </select>
      </label>
      <div class="buttons">
        {options.replay === null && (
          <button type="button" onClick={props.onReplay}>
            Replay
          </button>
        )}
        <Switch name="legend" label="Legend" isOn={options.legend} />
        <Switch name="table" label="Table" isOn={options.table} />
        <SaveButtons {...props} />
      </div>
    </div>
  );
}

function Switch({ name, label, isOn }: { name: string; label: string; isOn: boolean }) {
  return (
    <button
      type="button"
      aria-pressed={isOn}
      onClick={() => setOptions({ [name]: isOn ? null : "1" })}
    >
      {label}
    </button>
  );
}

function SaveButtons({ graph, scene, svg }: ToolbarProps) {
  const [error, setError] = useState("");
  const save = async (extension: "svg" | "png") => {
    const element = svg();
    if (!element || !scene) return;
    try {
      const data =
        extension === "svg"
          ? new Blob([drawDocument(element, scene)], { type: "image/svg+xml" })
          : await drawPicture(element, scene);
      download(data, fileName(graph, extension));
      setError("");
    } catch {
      setError("The picture could not be saved; the graph may be too large.");
    }
  };
  return (
    <>
      <button type="button" disabled={!scene} onClick={() => save("svg")}>
        Save SVG
      </button>
      <button type="button" disabled={!scene} onClick={() => save("png")}>
        Save PNG
      </button>
      {error && <p role="alert">{error}</p>}
    </>
  );
}
