import { expect, test } from "vitest";
import { decode, type LiveUpdate } from "./decode";

const NOTHING = { keys: [], columns: {} };

function update(changes: Partial<LiveUpdate>): LiveUpdate {
  return {
    time: 1,
    since: null,
    version: null,
    window: null,
    health: null,
    completeness: null,
    agent: null,
    processes: null,
    nodes: NOTHING,
    graphs: NOTHING,
    runs: null,
    alerts: null,
    ...changes,
  };
}

const FULL = update({
  since: 100,
  version: "1.0",
  window: "5m",
  processes: { connected: 2 },
  nodes: {
    keys: [
      ["shop", "checkout", "load"],
      ["shop", "checkout", "pay"],
      ["shop", "checkout", "ship"],
    ],
    columns: {
      executions: { rows: [1, 1], values: [4, 2] },
      error: { rows: [2], values: [1] },
      seconds: { rows: null, values: [1, 3, 0] },
      p95: { rows: [1, 1], values: [0.5, 2] },
      last: { rows: [1], values: [17_672_256_005] },
    },
  },
});

test("full has every row", () => {
  const live = decode(null, "full", FULL)!.live;
  expect(live.version).toBe("1.0");
  expect(live.nodes.map((row) => row.node)).toEqual(["load", "pay", "ship"]);
  expect(live.nodes[0]).toMatchObject({
    executions: 4,
    avg: 0.25,
    p95: 0.5,
    success_rate: 1,
    last_execution: 1_767_225_600.5,
    cost_usd: null,
    tokens: null,
  });
  expect(live.nodes[1]!.success_rate).toBe(0.5);
  expect(live.nodes[2]).toMatchObject({ executions: 0, avg: null, success_rate: null });
});

test("changes add counts, replace values, and keep the other rows", () => {
  const before = decode(null, "full", FULL)!;
  const after = decode(
    before,
    "changes",
    update({
      time: 2,
      nodes: {
        keys: [["shop", "checkout", "late"]],
        columns: {
          executions: { rows: [2, 2], values: [-1, 7] },
          p95: { rows: [2], values: [null] },
          cost: { rows: [4], values: [0.5] },
          tokens: { rows: [4], values: [30] },
        },
      },
    }),
  )!;
  expect(after.live.time).toBe(2);
  expect(after.live.processes).toEqual({ connected: 2 });
  expect(after.live.nodes[1]).toMatchObject({ executions: 1, p95: null, avg: 3 });
  expect(after.live.nodes[3]).toMatchObject({
    node: "late",
    executions: 7,
    cost_usd: 0.5,
    tokens: 30,
  });
  expect(after.live.nodes[0]).toBe(before.live.nodes[0]);
  expect(before.live.nodes[1]!.executions).toBe(2);
  expect(after.live.graphs).toBe(before.live.graphs);
});

test("lists follow the order of the update", () => {
  const run = (name: string, visits: number) => ({
    service: "shop",
    graph: "checkout",
    run: name,
    client: "c",
    pid: 1,
    host: "h",
    start: 1,
    node: "pay",
    node_start: 1,
    visits,
    trouble: [],
    ...{ cost_usd: null, tokens: 0, unpriced_tokens: 0 },
  });
  const runs = [run("1", 1), run("2", 1)];
  const first = decode(
    null,
    "full",
    update({ runs: { active: 2, order: ["c/1", "c/2"], changed: runs } }),
  )!;
  const second = decode(
    first,
    "changes",
    update({ runs: { active: 9, order: ["c/3", "c/1"], changed: [run("3", 5)] } }),
  )!;
  expect(second.live.runs.map((one) => one.run)).toEqual(["3", "1"]);
  expect(second.live.runs_in_progress).toBe(9);
  expect(second.live.runs[1]).toBe(first.live.runs[0]);
});

test("changes without a state are not applied", () => {
  expect(decode(null, "changes", FULL)).toBeNull();
});
