import { describe, expect, it } from "vitest";
import { layoutWithDagre } from "./dagre";
import { layoutInLayers } from "./layers";
import { ranks, tooLarge, traverse, type Layout, type Wiring } from "./layout";

type Pair = [number, number];

function wiring(
  count: number,
  edges: Pair[],
  direction: Wiring["direction"] = "right",
): Wiring {
  return {
    direction,
    nodes: Array.from({ length: count }, () => [170, 80]),
    edges: edges.map(([source, target]) => [source, target, 60, 18]),
  };
}

const chain = (count: number): Pair[] =>
  Array.from({ length: count - 1 }, (_, node) => [node, node + 1]);

const LOOP = wiring(5, [...chain(5), [3, 1], [1, 4]]);

function overlaps(layout: Layout, sizes: Wiring["nodes"]): number {
  let count = 0;
  layout.nodes.forEach(([x, y], node) => {
    layout.nodes.slice(0, node).forEach(([otherX, otherY], other) => {
      const width = (sizes[node]![0] + sizes[other]![0]) / 2;
      const height = (sizes[node]![1] + sizes[other]![1]) / 2;
      if (Math.abs(x - otherX) < width && Math.abs(y - otherY) < height) count++;
    });
  });
  return count;
}

function isInside(layout: Layout, sizes: Wiring["nodes"]): boolean {
  return layout.nodes.every(
    ([x, y], node) =>
      x - sizes[node]![0] / 2 >= 0 &&
      y - sizes[node]![1] / 2 >= 0 &&
      x + sizes[node]![0] / 2 <= layout.width &&
      y + sizes[node]![1] / 2 <= layout.height,
  );
}

describe.each([
  ["dagre", layoutWithDagre],
  ["layers", layoutInLayers],
] as const)("the layout by %s", (method, layout) => {
  it.each(["right", "down"] as const)("draws ranks to the %s", (direction) => {
    const result = layout({ ...LOOP, direction });
    const axis = direction === "down" ? 1 : 0;
    const along = result.nodes.map((point) => point[axis]);
    expect(along).toEqual([...along].sort((a, b) => a - b));
    expect(new Set(along).size).toBe(5);
    expect(result.method).toBe(method);
  });

  it("is the same for the same wiring", () => {
    expect(layout(structuredClone(LOOP))).toEqual(layout(LOOP));
  });

  it("overlaps no nodes and leaves none outside, also with one more", () => {
    let graph = wiring(1, []);
    for (let node = 1; node < 25; node++) {
      const edges: Pair[] = [[Math.floor((node - 1) / 2), node]];
      if (node % 5 === 0) edges.push([node, 0]);
      graph = {
        ...graph,
        nodes: [...graph.nodes, [120 + 10 * (node % 9), 60 + 4 * (node % 7)]],
        edges: [...graph.edges, ...wiring(0, edges).edges],
      };
      const result = layout(graph);
      expect(overlaps(result, graph.nodes)).toBe(0);
      expect(isInside(result, graph.nodes)).toBe(true);
    }
  });

  it("keeps the order of ranks when a node is added", () => {
    const before = layout(wiring(4, chain(4))).nodes.map(([x]) => x);
    const after = layout(wiring(5, [...chain(4), [1, 4]])).nodes.map(([x]) => x);
    const order = (xs: number[]) => [0, 1, 2, 3].sort((a, b) => xs[a]! - xs[b]!);
    expect(order(after)).toEqual(order(before));
    expect(after[4]).toBe(after[2]);
  });

  it("draws graphs without nodes, without edges, and in pieces", () => {
    expect(layout(wiring(0, [])).nodes).toEqual([]);
    for (const graph of [
      wiring(3, []),
      wiring(4, [
        [0, 1],
        [3, 2],
      ]),
    ]) {
      const result = layout(graph);
      expect(result.nodes.flat().every(Number.isFinite)).toBe(true);
      expect(overlaps(result, graph.nodes)).toBe(0);
    }
  });

  it("draws edges both ways between two nodes apart", () => {
    const result = layout(
      wiring(2, [
        [0, 1],
        [1, 0],
        [0, 1],
      ]),
    );
    expect(result.edges).toHaveLength(3);
    expect(result.edges.every(({ points }) => points.length >= 2)).toBe(true);
  });
});

describe("tooLarge", () => {
  it("accepts what dagre can lay out in time", () => {
    expect(tooLarge(LOOP)).toBeNull();
    expect(tooLarge(wiring(200, chain(200)))).toBeNull();
  });

  it.each([
    ["many nodes", wiring(1000, []), "1000 nodes"],
    ["a deep chain", wiring(400, chain(400)), "a depth of 400 nodes"],
    ["a chain that repeats", wiring(400, [...chain(400), [399, 0]]), "a depth of 400"],
    [
      "a dense graph",
      wiring(
        60,
        Array.from({ length: 300 }, (_, n): Pair => [n % 60, (n * 7 + 1) % 60]),
      ),
      "300 edges between 60 nodes",
    ],
  ])("rejects %s", (_, graph, reason) => {
    expect(tooLarge(graph)).toContain(reason);
  });
});

describe("traverse", () => {
  it("finds the edges that lead back", () => {
    const { isBack } = traverse(LOOP);
    expect(isBack).toEqual([false, false, false, false, true, false]);
    expect(ranks(LOOP)).toEqual([0, 1, 2, 3, 4]);
  });

  it("does not overflow the stack", () => {
    const deep = wiring(50_000, chain(50_000));
    expect(ranks(deep).at(-1)).toBe(49_999);
    expect(layoutInLayers(deep).nodes).toHaveLength(50_000);
  });
});
