// Runs apart from the page, so that a large graph never blocks it.
import { layoutWithDagre } from "./dagre";
import type { Wiring } from "./layout";

self.onmessage = (event: MessageEvent<{ id: number; wiring: Wiring }>) => {
  const { id, wiring } = event.data;
  let layout = null;
  try {
    layout = layoutWithDagre(wiring);
  } catch {
    // A stack overflow: the page keeps the drawing in layers.
  }
  self.postMessage({ id, layout });
};
