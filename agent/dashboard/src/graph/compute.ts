// Computes layouts in the Worker, with a cache and a deadline.
//
// Strategy: a layout is a function of the wiring, so it is computed once and kept for the
// tab (and in the session storage for reloads). Until the Worker answers, and if it cannot,
// the drawing in layers is used.
import { layoutInLayers } from "./layers";
import { tooLarge, type Layout, type Wiring } from "./layout";

export const PATIENCE_MS = 500;
// Later, a result would move what somebody has been looking at for long.
export const DEADLINE_MS = 10_000;
const STORED = 40;
const REMEMBERED = 100;
const PREFIX = "kaywatch-layout-";

/** The layout to draw; `reason` says why it is not the full one. */
export interface LayoutResult {
  layout: Layout;
  reason: string | null;
}

/** What runs dagre: a Worker, or a function in tests. */
export interface LayoutEngine {
  /** Returns the layout; null if it cannot be computed. */
  run(wiring: Wiring): Promise<Layout | null>;
  /** Abandons what runs. */
  restart(): void;
}

export class LayoutCache {
  private readonly results = new Map<string, LayoutResult | null>();

  /** `changed` is called when `get` would answer something new. */
  constructor(
    private readonly engine: LayoutEngine,
    private readonly changed: () => void,
    private readonly storage: Pick<Storage, "getItem" | "setItem"> | null = null,
  ) {}

  /**
   * Returns the best layout so far, and starts to compute a better one if there may be.
   * null: within 500 ms there is the full one, or the drawing in layers.
   */
  get(wiring: Wiring): LayoutResult | null {
    const key = JSON.stringify(wiring);
    const known = this.results.get(key);
    if (known !== undefined) return known;
    const result = this.restore(key) ?? drawLarge(wiring);
    this.remember(key, result);
    if (!result) void this.compute(key, wiring);
    return result;
  }

  private async compute(key: string, wiring: Wiring): Promise<void> {
    const patience = setTimeout(
      () => this.show(key, inLayers(wiring, "The full layout is being computed.")),
      PATIENCE_MS,
    );
    const deadline = setTimeout(() => this.engine.restart(), DEADLINE_MS);
    const layout = await this.engine.run(wiring);
    clearTimeout(patience);
    clearTimeout(deadline);
    if (layout) this.store(key, layout);
    const reason = "The full layout could not be computed in time.";
    this.show(key, layout ? { layout, reason: null } : inLayers(wiring, reason));
  }

  private show(key: string, result: LayoutResult): void {
    this.remember(key, result);
    this.changed();
  }

  private remember(key: string, result: LayoutResult | null): void {
    this.results.set(key, result);
    const oldest = this.results.keys().next();
    if (this.results.size > REMEMBERED && !oldest.done)
      this.results.delete(oldest.value);
  }

  private restore(key: string): LayoutResult | null {
    try {
      const text = this.storage?.getItem(PREFIX + slot(key));
      const stored = text
        ? (JSON.parse(text) as { key: string; layout: Layout })
        : null;
      return stored?.key === key ? { layout: stored.layout, reason: null } : null;
    } catch {
      return null; // It is only a cache: what cannot be read is computed again.
    }
  }

  private store(key: string, layout: Layout): void {
    try {
      this.storage?.setItem(PREFIX + slot(key), JSON.stringify({ key, layout }));
    } catch {
      // The storage is full or forbidden: the layout is computed again after a reload.
    }
  }
}

function drawLarge(wiring: Wiring): LayoutResult | null {
  const size = tooLarge(wiring);
  if (size === null) return null;
  return inLayers(wiring, `The graph is too large for the full layout: ${size}.`);
}

function inLayers(wiring: Wiring, reason: string): LayoutResult {
  return { layout: layoutInLayers(wiring), reason };
}

// A bounded number of entries; the stored key tells two wirings of one slot apart.
function slot(key: string): number {
  let hash = 0;
  for (let i = 0; i < key.length; i++) hash = (hash * 31 + key.charCodeAt(i)) >>> 0;
  return hash % STORED;
}

/** Runs dagre in a Worker, started at the first request. */
export class WorkerEngine implements LayoutEngine {
  private worker: Worker | null = null;
  private next = 0;
  private readonly waiting = new Map<number, (layout: Layout | null) => void>();

  constructor(private readonly create: () => Worker) {}

  run(wiring: Wiring): Promise<Layout | null> {
    const id = this.next++;
    return new Promise((resolve) => {
      this.waiting.set(id, resolve);
      try {
        this.worker ??= this.start();
        this.worker.postMessage({ id, wiring });
      } catch {
        this.restart();
      }
    });
  }

  restart(): void {
    this.worker?.terminate();
    this.worker = null;
    for (const resolve of this.waiting.values()) resolve(null);
    this.waiting.clear();
  }

  private start(): Worker {
    const worker = this.create();
    worker.onmessage = (event: MessageEvent<{ id: number; layout: Layout | null }>) => {
      this.waiting.get(event.data.id)?.(event.data.layout);
      this.waiting.delete(event.data.id);
    };
    worker.onerror = () => this.restart();
    return worker;
  }
}
