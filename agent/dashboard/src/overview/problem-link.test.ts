import { expect, test } from "vitest";
import type { Problem } from "../api/types";
import { isShownBy, placeOf, targetOf } from "./problem-link";

const problem = (kind: Problem["kind"], names: Partial<Problem> = {}): Problem => ({
  kind,
  severity: "warning",
  service: "checkout",
  graph: "order",
  node: "Pay",
  text: "",
  details: [],
  since: null,
  count: null,
  cost_usd: null,
  run: "",
  alerts: [],
  ...names,
});

test("a problem is named by what is known of its place", () => {
  expect(placeOf(problem("failing"))).toBe("checkout / order / Pay");
  expect(placeOf(problem("process_died", { graph: "", node: "" }))).toBe("checkout");
});

test("a problem leads to the view that shows it", () => {
  expect(targetOf(problem("failing"))).toMatchObject({ view: "node", node: "Pay" });
  expect(targetOf(problem("dead_end"))).toMatchObject({ view: "graph", node: "Pay" });
  expect(targetOf(problem("stuck", { run: "7" }))).toMatchObject({
    view: "runs",
    node: null,
    run: "7",
  });
  expect(targetOf(problem("process_died", { graph: "", node: "" }))).toMatchObject({
    view: "processes",
    graph: null,
    node: null,
  });
  expect(
    targetOf(problem("alert", { alerts: [{ id: "a1", rule: "slow", node: "" }] })),
  ).toEqual({
    view: "alerts",
    alert: "a1",
  });
});

test("a view shows the problems of its subject and place", () => {
  const at = (
    view: "graph" | "node" | "runs" | "models" | "processes" | "alerts",
    node?: string,
  ) => ({
    view,
    service: "checkout",
    graph: "order",
    node: node ?? null,
  });
  expect(isShownBy(at("node", "Pay"), problem("failing"))).toBe(true);
  expect(isShownBy(at("node", "Ship"), problem("failing"))).toBe(false);
  expect(isShownBy(at("graph"), problem("drift"))).toBe(true);
  expect(isShownBy({ ...at("graph"), service: "other" }, problem("drift"))).toBe(false);
  expect(isShownBy(at("runs"), problem("stuck"))).toBe(true);
  expect(isShownBy(at("runs"), problem("failing"))).toBe(false);
  expect(isShownBy(at("models"), problem("failing", { cost_usd: 0.5 }))).toBe(true);
  expect(isShownBy(at("models"), problem("failing", { cost_usd: 0 }))).toBe(false);
  const died = problem("process_died", { graph: "", node: "" });
  expect(isShownBy({ ...at("processes"), graph: null }, died)).toBe(true);
  expect(isShownBy(at("graph"), problem("alert"))).toBe(true);
  expect(isShownBy(at("alerts"), problem("alert"))).toBe(false);
});
