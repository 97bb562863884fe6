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
  restarts = 0;

  constructor(private readonly delay: number) {}

  run(wiring: Wiring): Promise<Layout | null> {
    this.runs++;
    return new Promise((resolve) =>
      setTimeout(() => resolve(layoutWithDagre(wiring)), this.delay),
    );
  }

  restart(): void {
    this.restarts++;
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

function record(cache: LayoutCache, wiring = PAIR): LayoutResult[] {
  const results: LayoutResult[] = [];
  cache.request(wiring, (result) => results.push(result));
  return results;
}

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

describe("LayoutCache", () => {
  it("shows the full layout once if it is ready in time", async () => {
    const results = record(new LayoutCache(new DelayedEngine(100)));
    await vi.advanceTimersByTimeAsync(DEADLINE_MS);
    expect(results.map(({ layout }) => layout.method)).toEqual(["dagre"]);
    expect(results[0]?.reason).toBeNull();
  });

  it("shows layers after half a second, until the full layout is ready", async () => {
    const results = record(new LayoutCache(new DelayedEngine(3000)));
    await vi.advanceTimersByTimeAsync(PATIENCE_MS);
    expect(results.map(({ layout }) => layout.method)).toEqual(["layers"]);
    expect(results[0]?.isFinal).toBe(false);
    await vi.advanceTimersByTimeAsync(3000);
    expect(results.map(({ layout }) => layout.method)).toEqual(["layers", "dagre"]);
  });

  it("keeps the layers when the deadline passes, and abandons the computation", async () => {
    const engine = new DelayedEngine(26_000);
    const results = record(new LayoutCache(engine));
    await vi.advanceTimersByTimeAsync(DEADLINE_MS);
    expect(results.at(-1)).toMatchObject({
      isFinal: true,
      layout: { method: "layers" },
    });
    expect(results.at(-1)?.reason).toContain("could not be computed in time");
    expect(engine.restarts).toBe(1);
  });

  it("computes a wiring once, and answers at once from then on", async () => {
    const engine = new DelayedEngine(100);
    const cache = new LayoutCache(engine);
    record(cache);
    record(cache, structuredClone(PAIR));
    await vi.advanceTimersByTimeAsync(100);
    const [again] = record(cache);
    expect(again?.layout.method).toBe("dagre");
    expect(engine.runs).toBe(1);
  });

  it("never starts what is too large", () => {
    const engine = new DelayedEngine(0);
    const wide = { ...PAIR, nodes: Array<[number, number]>(2000).fill([100, 50]) };
    const [result] = record(new LayoutCache(engine), wide);
    expect(result).toMatchObject({ isFinal: true, layout: { method: "layers" } });
    expect(result?.reason).toContain("2000 nodes");
    expect(engine.runs).toBe(0);
  });

  it("survives a reload by its storage, and ignores what is damaged in it", async () => {
    const storage = new MemoryStorage();
    record(new LayoutCache(new DelayedEngine(0), storage));
    await vi.advanceTimersByTimeAsync(0);
    const engine = new DelayedEngine(0);
    const [restored] = record(new LayoutCache(engine, storage));
    expect(restored?.layout).toEqual(layoutWithDagre(PAIR));
    expect(engine.runs).toBe(0);

    for (const key of storage.entries.keys()) storage.entries.set(key, "{damaged");
    record(new LayoutCache(engine, storage));
    expect(engine.runs).toBe(1);
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
