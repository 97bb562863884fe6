import { expect, test } from "vitest";
import { formatRoute, parseRoute, shownPlace } from "./route";

test.each([
  "",
  "?graph=checkout",
  "?view=overview&service=shop&graph=a",
  "?view=runs&graph=a+b&window=1h&end=17&find=p95",
])("%s: a route survives its address", (search) => {
  const route = parseRoute(search);
  const { search: formatted } = new URL(formatRoute(route), "http://agent/");
  expect(parseRoute(formatted)).toEqual(route);
});

test.each([
  ["?graph=checkout", "graph"],
  ["?graph=checkout&node=pay", "node"],
  ["?alert=7", "alerts"],
  ["?view=nonsense", "overview"],
])("%s opens %s", (search, view) => {
  expect(parseRoute(search).view).toBe(view);
});

test.each([
  ["node", "shop", "order", "pay"],
  ["runs", "shop", "order", null],
  ["alerts", "shop", null, null],
] as const)("%s shows the place by which it selects", (view, service, graph, node) => {
  const all = parseRoute(`?view=${view}&service=shop&graph=order&node=pay`);
  expect(shownPlace(all)).toEqual({ service, graph, node });
});
