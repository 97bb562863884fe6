import { expect, test } from "vitest";
import { toCsv } from "../charts/data";
import { describeEpisode, episodeTable } from "./episodes";
import type { EpisodeList, EpisodeRow } from "./types";

const row = (rule: string, labels: Record<string, string>, ...spans: number[][]) =>
  ({
    ...{ alert: rule, rule, severity: "warning", labels, state: "firing" },
    episodes: spans.map(([start, end], number) => ({
      ...{ number, start, end: end ?? null, text: "rate 12 %, above 5 %" },
    })),
  }) as EpisodeRow;
const LIST: EpisodeList = {
  ...{ start: 0, end: 100, matching: 2 },
  alerts: [
    row("fails", { service: "shop", graph: "order", node: "Pay" }, [20, 30], [80]),
    row("queue", { service: "shop", queue: "=1+1" }, [10, 12.5]),
  ],
};

test("the table has a row for each episode, in the order of time", () => {
  const { header, rows } = episodeTable(LIST, 95);
  expect(rows.every((each) => each.length === header.length)).toBe(true);
  expect(rows.map((each) => each.slice(0, 4))).toEqual([
    ["1970-01-01T00:00:10Z", "1970-01-01T00:00:12.500Z", 2.5, "queue"],
    ["1970-01-01T00:00:20Z", "1970-01-01T00:00:30Z", 10, "fails"],
    ["1970-01-01T00:01:20Z", "", 15, "fails"],
  ]);
  expect(rows[0]?.slice(5, 9)).toEqual(["shop", "", "", "queue==1+1"]);
});

test("the table can be saved as CSV", () => {
  const lines = toCsv(episodeTable(LIST, 95)).trimEnd().split("\r\n");
  expect(lines[0]).toBe(
    "start,end,seconds,rule,severity,service,graph,node,other labels,reason",
  );
  expect(lines[3]).toBe(
    '1970-01-01T00:01:20Z,,15,fails,warning,shop,order,Pay,,"rate 12 %, above 5 %"',
  );
});

test("an episode that lasts is described until now", () => {
  const [fails] = LIST.alerts;
  const [first, last] = fails!.episodes;
  expect(describeEpisode(fails!, first!, 95)).toMatch(/^warning: fired for 10 s since/);
  expect(describeEpisode(fails!, last!, 95)).toMatch(/^warning: fires for 15 s since/);
});
