import { describe, expect, it } from "vitest";
import { comparisonEnd, differencesFrom } from "./compare";
import { layoutWithDagre } from "./dagre";
import { assess } from "./health";
import { buildModel, withLiveFigures } from "./model";
import { truncate, wiringOf } from "./wiring";
import { alertRow, edge, liveRow, node, topology } from "./samples.test-data";
import { formatDuration } from "../ui/format";
import {
  buildScene,
  fit,
  nodesInLoops,
  nodeTowards,
  zoom,
  type GraphTree,
  type Scene,
} from "./scene";
import { selectParts, withContents } from "./filter";

const SHOP = topology(
  [node("Load"), node("Pay"), node("Retry"), node("Ship")],
  [
    edge("Load", "Pay", "default", 100),
    edge("Pay", "Ship", "ok", 80),
    edge("Pay", "Retry", "failed", 20),
    edge("Retry", "Pay", "again", 20, { is_back_edge: true, per_run: 2.5 }),
    edge("Ship", null, "done", 80),
  ],
);

const leaf = (model: GraphTree["model"]): GraphTree => ({ model, children: new Map() });

function draw(tree: GraphTree): Scene {
  return buildScene(tree, "right", (wiring) => ({
    layout: layoutWithDagre(wiring),
    reason: null,
  }))!;
}

describe("buildModel", () => {
  it("sorts nodes by their distance from the start, then by name", () => {
    const names = buildModel(SHOP).nodes.map((each) => each.node);
    expect(names).toEqual(["Load", "Pay", "Retry", "Ship"]);
  });

  it("joins the actions between two nodes in one edge", () => {
    const both = topology(
      [node("A"), node("B")],
      [edge("A", "B", "y", 3, { share: 0.3 }), edge("A", "B", "x", 7, { share: 0.7 })],
    );
    const [joined] = buildModel(both).edges;
    expect(joined).toMatchObject({ count: 10, share: 1 });
    expect(joined?.actions.map(({ action }) => action)).toEqual(["x", "y"]);
  });

  it("keeps ends, and edges of a node to itself, with the node", () => {
    const self = edge("Load", "Load", "again", 4, { is_back_edge: true, per_run: 3 });
    const model = buildModel({ ...SHOP, edges: [...SHOP.edges, self] });
    expect(model.nodes[0]?.repeats?.per_run).toBe(3);
    expect(model.nodes[3]?.ends).toEqual([{ action: "done", count: 80, share: null }]);
    expect(model.edges).toHaveLength(4);
  });

  it("does not confuse names that look like something else", () => {
    const names = ["__proto__", "constructor", "<b>x</b>", '"]', "", "0"];
    const model = buildModel(
      topology(
        names.map((name) => node(name)),
        names.slice(1).map((name, index) => edge(names[index]!, name, "__proto__", 1)),
        { start: "__proto__" },
      ),
    );
    expect(model.nodes.map((each) => each.node)).toEqual(names);
    const scene = draw(leaf(model));
    expect(scene.edges.map(({ target }) => target.node.node)).toEqual(names.slice(1));
  });

  it("shows what an earlier topology has besides, without its figures", () => {
    const earlier = topology(
      [node("Load"), node("Old", { executions: 9, retries: 3 })],
      [edge("Load", "Old", "default", 9)],
    );
    const model = buildModel(SHOP, [], earlier);
    const old = model.nodes.find((each) => each.node === "Old");
    expect(old).toMatchObject({ is_removed: true, executions: 0, retries: 0 });
    expect(model.edges.find(({ target }) => target === "Old")).toMatchObject({
      is_removed: true,
      count: 0,
    });
  });
});

describe("the layout of a model", () => {
  const wiring = (topologyOf = SHOP) => wiringOf(buildModel(topologyOf), "right");

  it("depends on no figure and on no order of rows", () => {
    const busy = topology(
      [...SHOP.nodes]
        .reverse()
        .map((row) => ({ ...row, executions: 9e6, seconds: 1e6 })),
      [...SHOP.edges].reverse().map((row) => ({ ...row, count: 9e6, share: 0.123456 })),
    );
    expect(wiring(busy)).toEqual(wiring());
  });

  it("does not depend on what ends where", () => {
    const edges = SHOP.edges.filter(({ target }) => target !== null);
    expect(wiring({ ...SHOP, edges })).toEqual(wiring());
  });

  it("leaves cards in their place when their time changes", () => {
    const before = draw(leaf(buildModel(SHOP)));
    const nodes = SHOP.nodes.map((row) =>
      row.node === "Pay" ? { ...row, seconds: 1e4 } : row,
    );
    const after = draw(leaf(buildModel({ ...SHOP, nodes })));
    const centres = (scene: Scene) =>
      scene.nodes.map((item) => [
        item.x + item.width / 2,
        Math.round(item.y + item.height / 2),
      ]);
    expect(centres(after)).toEqual(centres(before));
    const pay = (scene: Scene) => scene.nodes.find(({ node }) => node.node === "Pay")!;
    expect(pay(after).height).toBeGreaterThan(pay(before).height);
  });
});

describe("buildScene", () => {
  const outer = topology(
    [node("Begin"), node("Inner", { subgraph: "shop" }), node("End")],
    [edge("Begin", "Inner", "default", 5), edge("Inner", "End", "default", 5)],
    { graph: "outer" },
  );
  const expanded = draw({
    model: buildModel(outer),
    children: new Map([["Inner", leaf(buildModel(SHOP))]]),
  });

  it("draws a nested graph inside the frame of its node", () => {
    const frame = expanded.nodes.find(({ is_expanded }) => is_expanded)!;
    const inside = expanded.nodes.filter(({ path }) => path.length === 2);
    expect(inside).toHaveLength(4);
    for (const item of inside) {
      expect(item.x).toBeGreaterThanOrEqual(frame.x);
      expect(item.y).toBeGreaterThanOrEqual(frame.y);
      expect(item.x + item.width).toBeLessThanOrEqual(frame.x + frame.width);
      expect(item.y + item.height).toBeLessThanOrEqual(frame.y + frame.height);
    }
  });

  it("moves the lines of a nested graph along with its nodes", () => {
    const alone = draw(leaf(buildModel(SHOP)));
    const line = (scene: Scene, target: string) =>
      scene.edges.find((item) => item.target.node.node === target)!;
    const before = line(alone, "Ship");
    const after = line(expanded, "Ship");
    const start = (path: string) =>
      /^M(\S+) ([-\d.]+)/.exec(path)!.slice(1).map(Number);
    const [x, y] = start(before.line);
    expect(start(after.line)[0]).toBeCloseTo(x! + after.source.x - before.source.x, 0);
    expect(start(after.line)[1]).toBeCloseTo(y! + after.source.y - before.source.y, 0);
  });

  it("hides what is inside a hidden frame", () => {
    const { keys } = selectParts(expanded, "Inner");
    expect(withContents(expanded, keys!).size).toBe(5);
  });

  it("has no scene until all layouts are known", () => {
    expect(buildScene(leaf(buildModel(SHOP)), "right", () => null)).toBeNull();
  });

  it("draws graphs from above for narrow screens", () => {
    const scene = buildScene(leaf(buildModel(SHOP)), "down", (wiring) => ({
      layout: layoutWithDagre(wiring),
      reason: null,
    }))!;
    expect(scene.width).toBeLessThan(draw(leaf(buildModel(SHOP))).width);
    expect(scene.nodes[0]!.y).toBeLessThan(scene.nodes[1]!.y);
  });
});

describe("moving by keys", () => {
  const scene = draw(leaf(buildModel(SHOP)));
  const at = (name: string) => scene.nodes.find(({ node }) => node.node === name)!;

  it("follows edges", () => {
    expect(nodeTowards(scene, at("Load"), "right")?.node.node).toBe("Pay");
    expect(nodeTowards(scene, at("Pay"), "left")?.node.node).toBe("Load");
  });

  it("reaches every node, and stays where there is nothing", () => {
    const reached = new Set(["Load"]);
    for (const name of reached) {
      for (const arrow of ["left", "right", "up", "down"] as const) {
        const next = nodeTowards(scene, at(name), arrow);
        if (next) reached.add(next.node.node);
      }
    }
    expect(reached.size).toBe(4);
    expect(nodeTowards(scene, at("Load"), "left")).toBeNull();
  });

  it("knows the nodes of a loop", () => {
    expect(nodesInLoops(scene)).toEqual(new Set(['["Pay"]', '["Retry"]']));
    expect(selectParts(scene, "loop")).toMatchObject({ nodes: 2, edges: 1 });
  });
});

describe("the viewport", () => {
  it("shows the whole, on a phone and on a wall screen", () => {
    for (const [width, height] of [
      [320, 400],
      [3840, 2160],
    ] as const) {
      const view = fit({ width: 2000, height: 700 }, width, height);
      expect(view.x).toBeGreaterThanOrEqual(0);
      expect(view.y).toBeGreaterThanOrEqual(0);
      expect(view.x + 2000 * view.scale).toBeLessThanOrEqual(width + 1e-9);
      expect(view.y + 700 * view.scale).toBeLessThanOrEqual(height + 1e-9);
    }
  });

  it("zooms around the pointer, within limits", () => {
    const view = zoom({ x: 10, y: 20, scale: 1 }, 2, 100, 50);
    expect(view).toEqual({ x: -80, y: -10, scale: 2 });
    expect(zoom(view, 1e9, 0, 0).scale).toBe(4);
    expect(zoom(view, 1e-9, 0, 0).scale).toBe(0.02);
  });
});

describe("assess", () => {
  const busy = { executions: 1000, success_rate: 0.99, avg: 1, p95: 2 };

  it.each([
    ["good", { min_success_rate: 0.95 }, "within its thresholds"],
    ["bad", { min_success_rate: 0.995 }, "success 99"],
    [
      "bad",
      { max_avg: 0.5 },
      `average ${formatDuration(1)}, above ${formatDuration(0.5)}`,
    ],
    ["good", { max_avg: 60 }, "within"],
    [
      "warning",
      { usual_p95: 0.5 },
      `p95 ${formatDuration(2)}, usually at most ${formatDuration(0.5)}`,
    ],
    ["good", { usual_p95: 1.9 }, "within"],
    ["warning", { usual_error_rate: 0.001 }, "errors 1 %"],
    ["good", { usual_error_rate: 0.009 }, "within"],
    ["warning", { dead_ends: 1 }, "1 run ended"],
    ["unknown", {}, "no rule applies"],
    [
      "idle",
      { executions: 0, success_rate: null, avg: null, p95: null },
      "no executions",
    ],
    [
      "warning",
      { executions: 3, success_rate: 0.67, min_success_rate: 0.95 },
      "too few executions",
    ],
  ] as const)("is %s for %o", (status, figures, reason) => {
    const health = assess(node("Pay", { ...busy, ...figures }));
    expect(health.status).toBe(status);
    expect(health.reasons.join()).toContain(reason);
  });

  it("is idle, not good, where nothing has ever been", () => {
    const health = assess(node("Pay", { executions: 0, never_reached: true }));
    expect(health).toEqual({ status: "idle", reasons: ["no run has reached it"] });
  });

  it("does not take a single error for unusual", () => {
    const few = node("Pay", {
      executions: 25,
      success_rate: 0.96,
      usual_error_rate: 0,
    });
    expect(assess(few).status).toBe("good");
  });

  it("is bad while an alert fires, on its own node only", () => {
    const alert = alertRow("slow", { graph: "shop", node: "Pay" });
    const model = buildModel(SHOP, [alert]);
    const bad = model.nodes.filter(({ health }) => health.status === "bad");
    expect(bad.map(({ node: name }) => name)).toEqual(["Pay"]);
    const elsewhere = { ...alert, labels: { graph: "other", node: "Pay" } };
    expect(
      buildModel(SHOP, [elsewhere]).nodes.some(({ health }) => health.status === "bad"),
    ).toBe(false);
  });
});

describe("withLiveFigures", () => {
  const live = {
    nodes: [liveRow("Pay", { executions: 77, in_flight: 3 })],
    graphs: [],
  };
  const pay = (isSame: boolean) =>
    withLiveFigures(SHOP, live, isSame).nodes.find((each) => each.node === "Pay");

  it("takes all figures if they are of the same period", () => {
    expect(pay(true)).toMatchObject({ executions: 77, in_flight: 3 });
  });

  it("takes only what is in flight otherwise", () => {
    expect(pay(false)).toMatchObject({ executions: 100, in_flight: 3 });
  });

  it("takes nothing from another service", () => {
    const other = { ...live, nodes: [{ ...live.nodes[0]!, service: "other" }] };
    expect(withLiveFigures(SHOP, other, true)).toEqual(SHOP);
  });
});

describe("comparison", () => {
  it("takes the earlier period before a change, a day, or a week", () => {
    expect(comparisonEnd("yesterday", 1_000_000, null)).toBe(913_600);
    expect(comparisonEnd("week", 1_000_000, null)).toBe(395_200);
    expect(comparisonEnd("change", 1_000_000, 999_000)).toBe(998_999);
    expect(comparisonEnd("change", 1_000_000, null)).toBeNull();
  });

  it("shows differences of nodes and edges", () => {
    const before = topology(
      SHOP.nodes
        .filter(({ node: name }) => name !== "Retry")
        .map((row) => ({ ...row, p95: 0.1, success_rate: 1, executions: 40 })),
      [edge("Load", "Pay", "default", 10), edge("Pay", "Ship", "ok", 10, { share: 1 })],
    );
    const now = buildModel({
      ...SHOP,
      nodes: SHOP.nodes.map((row) => ({ ...row, p95: 0.3, success_rate: 0.9 })),
    });
    const differences = differencesFrom(buildModel(before));
    const [, pay, retry] = now.nodes;
    expect(differences.node(pay!)).toMatchObject({ is_new: false, executions: 60 });
    expect(differences.node(pay!).p95).toBeCloseTo(0.2);
    expect(differences.node(pay!).p95_ratio).toBeCloseTo(3);
    expect(differences.node(pay!).error_rate).toBeCloseTo(0.1);
    expect(differences.node(retry!)).toMatchObject({ is_new: true, p95: null });
    const toShip = now.edges.find(({ target }) => target === "Ship")!;
    expect(differences.edge({ ...toShip, share: 0.8 }).share).toBeCloseTo(-0.2);
    const toRetry = now.edges.find(({ target }) => target === "Retry")!;
    expect(differences.edge(toRetry)).toMatchObject({ is_new: true, share: null });
  });
});

describe("truncate", () => {
  it("counts wide characters twice, and splits none", () => {
    expect(truncate("Draft", 5)).toBe("Draft");
    expect(truncate("Drafting", 5)).toBe("Draf…");
    expect(truncate("名前名前", 5)).toBe("名前…");
    expect(truncate("👩🏽👩🏽👩🏽👩🏽", 4)).not.toContain("\uFFFD");
  });
});
