// Which parts of a scene the find and hide texts select.
import { FindError, parseFind, type Predicate } from "./find";
import { edgeSubject, nodeSubject } from "./model";
import { nodesInLoops, type Scene } from "./scene";

export interface Selection {
  /** null: there is no text, or it has an error. */
  keys: ReadonlySet<string> | null;
  nodes: number;
  edges: number;
  error: FindError | null;
}

/** Returns the keys of the nodes and edges that a text selects. */
export function selectParts(scene: Scene, text: string): Selection {
  let predicate: Predicate | null = null;
  try {
    predicate = parseFind(text);
  } catch (error) {
    if (!(error instanceof FindError)) throw error;
    return { keys: null, nodes: 0, edges: 0, error };
  }
  if (!predicate) return { keys: null, nodes: 0, edges: 0, error: null };
  const loops = nodesInLoops(scene);
  const nodes = scene.nodes
    .filter(({ key, node }) => predicate(nodeSubject(node, loops.has(key))) === true)
    .map(({ key }) => key);
  const edges = scene.edges
    .filter(({ edge }) => predicate(edgeSubject(edge)) === true)
    .map(({ key }) => key);
  return {
    keys: new Set([...nodes, ...edges]),
    nodes: nodes.length,
    edges: edges.length,
    error: null,
  };
}

/** Returns `keys` and the keys of everything inside them: hiding a frame hides all of it. */
export function withContents(scene: Scene, keys: ReadonlySet<string>): Set<string> {
  const paths = new Set(keys);
  const result = new Set(keys);
  for (const { key, path } of scene.nodes) {
    for (let length = 1; length < path.length; length++) {
      if (paths.has(JSON.stringify(path.slice(0, length)))) result.add(key);
    }
  }
  return result;
}
