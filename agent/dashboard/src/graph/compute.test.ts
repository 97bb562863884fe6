import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import {
  DEADLINE_MS,
  LayoutCache,
  PATIENCE_MS,
  WorkerEngine,
  type LayoutEngine,
  type LayoutResult,
} from "./compute";
import { layoutWithDagre } from "./dagre";
import type { Layout, Wiring } from "./layout";

const PAIR: Wiring = {
  direction: "right",
  nodes: [
    [100, 50],
    [100, 50],
  ],
  edges: [[0, 1, 40, 16]],
};

class DelayedEngine implements LayoutEngine {
  runs = 0;
  private abandon: (() => void) | null = null;

  constructor(private readonly delay: number) {}

  run(wiring: Wiring): Promise<Layout | null> {
    this.runs++;
    return new Promise((resolve) => {
      this.abandon = () => resolve(null);
      setTimeout(() => resolve(layoutWithDagre(wiring)), this.delay);
    });
  }

  restart(): void {
    this.abandon?.();
  }
}

class MemoryStorage {
  readonly entries = new Map<string, string>();

  getItem(key: string): string | null {
    return this.entries.get(key) ?? null;
  }

  setItem(key: string, value: string): void {
    this.entries.set(key, value);
  }
}

/** Returns a cache, and the results that a view would draw one after the other. */
function openCache(engine: LayoutEngine, storage: MemoryStorage | null = null) {
  const shown: (LayoutResult | null)[] = [];
  const cache = new LayoutCache(engine, () => shown.push(cache.get(PAIR)), storage);
  return { cache, shown };
}

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

describe("LayoutCache", () => {
  it("shows the full layout once if it is ready in time", async () => {
    const { cache, shown } = openCache(new DelayedEngine(100));
    expect(cache.get(PAIR)).toBeNull();
    await vi.advanceTimersByTimeAsync(DEADLINE_MS);
    expect(shown).toEqual([{ layout: layoutWithDagre(PAIR), reason: null }]);
  });

  it("shows layers after half a second, until the full layout is ready", async () => {
    const { cache, shown } = openCache(new DelayedEngine(3000));
    cache.get(PAIR);
    await vi.advanceTimersByTimeAsync(PATIENCE_MS);
    expect(shown.map((result) => result?.layout.method)).toEqual(["layers"]);
    await vi.advanceTimersByTimeAsync(3000);
    expect(shown.map((result) => result?.layout.method)).toEqual(["layers", "dagre"]);
  });

  it("keeps the layers when the deadline passes", async () => {
    const { cache } = openCache(new DelayedEngine(26_000));
    cache.get(PAIR);
    await vi.advanceTimersByTimeAsync(DEADLINE_MS);
    expect(cache.get(PAIR)?.reason).toContain("could not be computed in time");
    await vi.advanceTimersByTimeAsync(20_000);
    expect(cache.get(PAIR)?.layout.method).toBe("layers");
  });

  it("computes a wiring once", async () => {
    const engine = new DelayedEngine(100);
    const { cache } = openCache(engine);
    cache.get(PAIR);
    cache.get(structuredClone(PAIR));
    await vi.advanceTimersByTimeAsync(100);
    expect(cache.get(PAIR)?.layout.method).toBe("dagre");
    expect(engine.runs).toBe(1);
  });

  it("never starts what is too large", () => {
    const engine = new DelayedEngine(0);
    const wide = { ...PAIR, nodes: Array<[number, number]>(2000).fill([100, 50]) };
    const result = openCache(engine).cache.get(wide);
    expect(result?.layout.method).toBe("layers");
    expect(result?.reason).toContain("2000 nodes");
    expect(engine.runs).toBe(0);
  });

  it("survives a reload by its storage, and ignores what is damaged in it", async () => {
    const storage = new MemoryStorage();
    openCache(new DelayedEngine(0), storage).cache.get(PAIR);
    await vi.advanceTimersByTimeAsync(0);
    const engine = new DelayedEngine(0);
    const restored = openCache(engine, storage).cache.get(PAIR);
    expect(restored?.layout).toEqual(layoutWithDagre(PAIR));
    expect(engine.runs).toBe(0);

    for (const key of storage.entries.keys()) storage.entries.set(key, "{damaged");
    openCache(engine, storage).cache.get(PAIR);
    expect(engine.runs).toBe(1);
  });

  it("remembers a bounded number of layouts", () => {
    const engine = new DelayedEngine(0);
    const { cache } = openCache(engine);
    const wirings = Array.from({ length: 150 }, (_, n): Wiring => ({
      ...PAIR,
      nodes: [
        [100 + n, 50],
        [100, 50],
      ],
    }));
    for (const wiring of [...wirings, ...wirings.slice(0, 50)]) cache.get(wiring);
    expect(engine.runs).toBe(200);
  });
});

describe("WorkerEngine", () => {
  it("answers null when the Worker dies, and starts another one", async () => {
    const workers: { onerror: (() => void) | null; terminated: boolean }[] = [];
    const engine = new WorkerEngine(() => {
      const worker = {
        onerror: null as (() => void) | null,
        onmessage: null as ((event: unknown) => void) | null,
        terminated: false,
        terminate() {
          this.terminated = true;
        },
        postMessage({ id }: { id: number }) {
          if (workers.length > 1) this.onmessage?.({ data: { id, layout: "done" } });
        },
      };
      workers.push(worker);
      return worker as unknown as Worker;
    });
    const lost = engine.run(PAIR);
    workers[0]?.onerror?.();
    expect(await lost).toBeNull();
    expect(workers[0]?.terminated).toBe(true);
    expect(await engine.run(PAIR)).toBe("done");
  });
});
