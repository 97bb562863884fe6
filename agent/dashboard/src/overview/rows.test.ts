import { expect, test } from "vitest";
import type { GraphRow } from "../api/types";
import { sumRows } from "./rows";

const row = (executions: number, error: number, cost: number | null): GraphRow => ({
  service: "shop",
  graph: "checkout",
  executions,
  outcomes: { ok: executions - error, error, suppressed: 0, fallback: 0, cancelled: 0 },
  success_rate: null,
  avg: null,
  p50: null,
  p95: null,
  p99: null,
  seconds: 1,
  visits: 0,
  retries: 0,
  last_execution: null,
  cost_usd: cost,
  wasted_cost_usd: cost === null ? null : cost / 2,
  tokens: null,
  dead_ends: 0,
  never_reached: 0,
  in_progress: 1,
});

test("the success rate of several graphs is that of all their runs", () => {
  expect(sumRows([row(90, 0, null), row(10, 10, 4)])).toEqual({
    runs: 100,
    failed: 10,
    success_rate: 0.9,
    in_progress: 2,
    cost_usd: 4,
    wasted_cost_usd: 2,
  });
});

test("nothing has no success rate and no cost", () => {
  expect(sumRows([])).toMatchObject({ runs: 0, success_rate: null, cost_usd: null });
});
