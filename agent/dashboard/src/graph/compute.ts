// Computes layouts in the Worker, with a cache and a deadline.
//
// Strategy: a layout is a function of the wiring, so it is computed once and kept for the
// tab (and in the session storage for reloads). Until the Worker answers, and if it cannot,
// the drawing in layers is used.
import { layoutInLayers } from "./layers";
import { tooLarge, type Layout, type Wiring } from "./layout";

export const PATIENCE_MS = 500;
// Later than this, a result would move what somebody has been looking at for long.
export const DEADLINE_MS = 10_000;
const STORED = 40;
const REMEMBERED = 100;
const PREFIX = "kaywatch-layout-";

/** The layout to draw now; `reason` says why it is not the full one. */
export interface LayoutResult {
  layout: Layout;
  reason: string | null;
  isFinal: boolean;
}

/** What runs dagre: a Worker, or a function in tests. */
export interface LayoutEngine {
  run(wiring: Wiring): Promise<Layout | null>;
  /** Abandons what runs. */
  restart(): void;
}

export class LayoutCache {
  private readonly layouts = new Map<string, Promise<LayoutResult> | LayoutResult>();

  constructor(
    private readonly engine: LayoutEngine,
    private readonly storage: Pick<Storage, "getItem" | "setItem"> | null = null,
  ) {}

  /**
   * Calls `show` with the layout: at once if it is known, and otherwise within 500 ms with
   * the drawing in layers, and again when the Worker has answered.
   */
  request(wiring: Wiring, show: (result: LayoutResult) => void): void {
    const key = JSON.stringify(wiring);
    const known = this.layouts.get(key) ?? this.restore(key);
    if (known && !(known instanceof Promise)) return show(known);
    const size = tooLarge(wiring);
    if (size !== null) {
      const result = fallback(wiring, `It is too large for the full layout: ${size}.`);
      this.remember(key, result);
      return show(result);
    }
    const final = known ?? this.compute(key, wiring);
    const timer = setTimeout(
      () => show(fallback(wiring, "The full layout is being computed.", false)),
      PATIENCE_MS,
    );
    void final.then((result) => {
      clearTimeout(timer);
      show(result);
    });
  }

  private remember(key: string, result: Promise<LayoutResult> | LayoutResult): void {
    this.layouts.set(key, result);
    if (this.layouts.size <= REMEMBERED) return;
    for (const oldest of this.layouts.keys()) {
      this.layouts.delete(oldest);
      return;
    }
  }

  private compute(key: string, wiring: Wiring): Promise<LayoutResult> {
    const final = this.withDeadline(wiring).then((layout) => {
      const result = layout
        ? { layout, reason: null, isFinal: true }
        : fallback(wiring, "The full layout could not be computed in time.");
      this.remember(key, result);
      if (layout) this.store(key, layout);
      return result;
    });
    this.remember(key, final);
    return final;
  }

  private async withDeadline(wiring: Wiring): Promise<Layout | null> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const expired = new Promise<null>((resolve) => {
      timer = setTimeout(() => {
        this.engine.restart();
        resolve(null);
      }, DEADLINE_MS);
    });
    try {
      return await Promise.race([this.engine.run(wiring), expired]);
    } finally {
      clearTimeout(timer);
    }
  }

  private restore(key: string): LayoutResult | null {
    try {
      const text = this.storage?.getItem(PREFIX + slot(key));
      const stored = text
        ? (JSON.parse(text) as { key: string; layout: Layout })
        : null;
      if (stored?.key !== key) return null;
      const result = { layout: stored.layout, reason: null, isFinal: true };
      this.remember(key, result);
      return result;
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

function fallback(wiring: Wiring, reason: string, isFinal = true): LayoutResult {
  return { layout: layoutInLayers(wiring), reason, isFinal };
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
