import { describe, expect, it } from "vitest";
import { buildModel } from "./model";
import { readOptions } from "./options";
import { tracePath } from "./path";
import { edge, node, topology } from "./samples.test-data";
import { buildScene } from "./scene";
import { layoutInLayers } from "./layers";
import { differencesFrom } from "./compare";
import {
  describeNode,
  labelLines,
  fitBadges,
  listBadges,
  points,
  signed,
} from "./words";
import type { Marks } from "./marks";

describe("labels of edges", () => {
  const lines = (...edges: Parameters<typeof topology>[1]) =>
    buildModel(topology([node("A"), node("B"), node("C")], edges)).edges.map((each) =>
      labelLines(each, null),
    );

  it("has actions with their shares", () => {
    expect(
      lines(
        edge("A", "B", "yes", 999, { share: 0.999 }),
        edge("A", "C", "no", 1, { share: 0.001 }),
      ),
    ).toEqual([["yes >99 %"], ["no <1 %"]]);
  });

  it("has the count of an only edge", () => {
    expect(lines(edge("A", "B", "default", 12, { share: 1 }))).toEqual([["12"]]);
  });

  it("has the repeats of a back edge", () => {
    const back = { share: 0.5, is_back_edge: true, per_run: 2.34 };
    expect(lines(edge("B", "A", "again", 5, back))).toEqual([
      ["again 50 %", "×2.3 per run"],
    ]);
  });

  it("does not grow with the number of actions", () => {
    const many = ["a", "b", "c", "d", "e"].map((action) => edge("A", "B", action, 1));
    expect(lines(...many)).toEqual([["a", "b", "and 3 more"]]);
  });
});

describe("badges", () => {
  const names = (
    change: Parameters<typeof node>[1],
    edges = [] as ReturnType<typeof edge>[],
  ) =>
    listBadges(buildModel(topology([node("A", change)], edges)).nodes[0]!).map(
      (badge) => badge.name,
    );

  it("are those of what stands out, the most urgent first", () => {
    expect(names({})).toEqual([]);
    expect(names({ retries: 3, dead_ends: 1, cost_usd: 0.2, in_flight: 2 })).toEqual([
      "dead-end",
      "running",
      "retries",
      "cost",
    ]);
    const outcomes = { ok: 1, error: 0, suppressed: 2, fallback: 0, cancelled: 0 };
    expect(names({ outcomes })).toEqual(["fallback"]);
  });

  it("show where runs end, and what repeats", () => {
    const edges = [edge("A", "A", "again", 4, { per_run: 2 }), edge("A", null, "x", 1)];
    expect(names({}, edges)).toEqual(["repeats", "ends"]);
  });
});

describe("badges that do not fit", () => {
  const badges = ["● 5", "↻ 6,338", "↪ 421", "$57.23", "↺ ×7"].map((text) => ({
    ...{ name: text, text },
  }));
  const texts = (width: number) => fitBadges(badges, width).map(({ text }) => text);

  it("are left out from the end, which is shown", () => {
    expect(texts(1000)).toEqual(badges.map(({ text }) => text));
    expect(texts(196)).toEqual(["● 5", "↻ 6,338", "↪ 421", "…"]);
    expect(texts(60)).toEqual(["…"]);
    expect(fitBadges([], 60)).toEqual([]);
  });
});

describe("the name of a card", () => {
  const change = { retries: 3, in_flight: 2, executions: 73, success_rate: 0.932 };
  const wiring = topology(
    [node("Draft", change), node("Send")],
    [edge("Draft", "Send", "ok", 1)],
  );
  const model = buildModel(wiring);
  const scene = buildScene({ model, children: new Map() }, "right", (parts) => ({
    layout: layoutInLayers(parts),
    reason: null,
  }))!;
  const card = scene.nodes.find(({ node }) => node.node === "Draft")!;
  const plain: Marks = {
    matches: null,
    hidden: new Set(),
    steps: null,
    taken: new Set(),
    missing: [],
    differences: new Map(),
  };
  const name = (marks: Partial<Marks>, item = card) =>
    describeNode(item, model.edges, { ...plain, ...marks });

  it("begins with the texts on it, and has their meaning after them", () => {
    expect(name({})).toMatch(/^Draft, p95 200 ms, n 73, 93.2 %, ● 2, ↻ 3; /);
    expect(name({})).toContain("; 2 in flight; 3 retries; leads to Send by ok");
  });

  it("has the steps of a run before it", () => {
    const steps = new Map([[card.key, "2, 4"]]);
    expect(name({ steps })).toMatch(/^step 2, 4: Draft, p95 /);
  });

  it("has all figures also where the card has others or none", () => {
    const earlier = topology([node("Draft", { p95: 0.1 }), node("Send")], []);
    const difference = differencesFrom(buildModel(earlier));
    const differences = new Map([["shop", difference]]);
    expect(name({ differences })).toMatch(
      /^Draft, p95 \+100 ms, errors .*, ● 2, ↻ 3; .*n 73/,
    );
    expect(name({}, { ...card, is_expanded: true })).toMatch(/^Draft; .*n 73/);
  });
});

it("signs differences", () => {
  expect(points(0.0123)).toBe("+1.2 pp");
  expect(points(-0.5)).toBe("−50 pp");
  expect(points(0.0001)).toBe("±0 pp");
  expect(signed(-2, String)).toBe("−2");
  expect(signed(0, String)).toBe("±0");
});

describe("a run as a path", () => {
  const model = buildModel(
    topology(
      [node("Load"), node("Draft"), node("Review")],
      [
        edge("Load", "Draft", "default", 1),
        edge("Draft", "Review", "default", 1),
        edge("Review", "Draft", "revise", 1, { is_back_edge: true }),
      ],
    ),
  );
  const scene = buildScene({ model, children: new Map() }, "right", (wiring) => ({
    layout: layoutInLayers(wiring),
    reason: null,
  }))!;

  it("numbers the visits, and marks the edges that were taken", () => {
    const { steps, taken, missing } = tracePath(scene, {
      path: ["Load", "Draft", "Review", "Draft"],
      path_visits: [],
      visits: 4,
      node: "Draft",
    });
    expect(steps.get('["Draft"]')).toBe("2, 4");
    expect(taken.size).toBe(3);
    expect(missing).toEqual([]);
  });

  it("marks no edge if the path has only the first visits", () => {
    const path = ["Load", "Draft", "Review"];
    const run = { path, path_visits: [], visits: 9, node: "Review" };
    const { steps, taken } = tracePath(scene, run);
    expect(steps.size).toBe(3);
    expect(taken.size).toBe(0);
  });

  it("counts the visits of a loop, and marks the edges without which it cannot be", () => {
    const path = ["Load", "Draft", "Review", "Draft"];
    const run = { path, path_visits: [1, 12, 11], visits: 24, node: "Draft" };
    const { steps, taken } = tracePath(scene, run);
    expect(Object.fromEntries(steps)).toEqual({
      '["Load"]': "1",
      '["Draft"]': "2 … (12×)",
      '["Review"]': "3 … (11×)",
    });
    expect(taken.size).toBe(3);
  });

  it("marks no edge that a run with a loop may have left out", () => {
    // It may have visited Draft again and again without a way back to Load.
    const fork = [
      edge("Load", "Draft", "default", 1),
      edge("Draft", "Draft", "again", 1),
      edge("Draft", "Load", "restart", 1),
    ];
    const wiring = topology([node("Load"), node("Draft")], fork);
    const drawn = buildScene(
      { model: buildModel(wiring), children: new Map() },
      "right",
      (parts) => ({ layout: layoutInLayers(parts), reason: null }),
    )!;
    const run = {
      path: ["Load", "Draft"],
      path_visits: [1, 3],
      visits: 4,
      node: "Draft",
    };
    const { taken } = tracePath(drawn, run);
    const certain = drawn.edges.filter(({ key }) => taken.has(key));
    expect(certain.map(({ edge }) => edge.source)).toEqual(["Load"]);
  });

  it("names what is not in the drawing, and takes no edge across it", () => {
    const { taken, missing } = tracePath(scene, {
      path: ["Load", "Gone", "Draft"],
      path_visits: [],
      visits: 3,
      node: "Draft",
    });
    expect(missing).toEqual(["Gone"]);
    expect(taken.size).toBe(0);
  });
});

describe("options in the address", () => {
  it("ignores what is invalid", () => {
    const wrong = {
      compare: "__proto__",
      replay: "-1",
      open: '{"a"',
      inner: "1",
      table: "yes",
    };
    expect(readOptions(wrong)).toEqual({
      find: "",
      hide: "",
      compare: null,
      replay: null,
      open: new Set(),
      inner: [],
      legend: false,
      table: false,
    });
    expect(readOptions({ replay: "1e999", open: "[1,null]" })).toMatchObject({
      replay: null,
      open: new Set(),
    });
  });

  it("reads what is valid", () => {
    const options = { find: "never", compare: "week", replay: "1000", open: '[["A"]]' };
    expect(readOptions(options)).toMatchObject({
      find: "never",
      compare: "week",
      replay: 1000,
      open: new Set(['["A"]']),
    });
  });
});
