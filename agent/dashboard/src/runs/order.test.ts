import { describe, expect, it } from "vitest";
import type { RunInProgress, Trouble } from "../api/types";
import {
  describePath,
  describeReason,
  describeVisits,
  isBadEnd,
  sortInProgress,
} from "./order";

const FREE = { cost_usd: null, tokens: 0, unpriced_tokens: 0 };

function run(name: string, start: number, ...trouble: Trouble[]): RunInProgress {
  const place = {
    service: "shop",
    graph: "checkout",
    node: "pay",
    client: "1",
    host: "h",
  };
  return {
    ...place,
    run: name,
    pid: 1,
    start,
    node_start: start,
    visits: 1,
    trouble,
    ...FREE,
  };
}

describe("sortInProgress", () => {
  it("puts runs in trouble first, then the longest in progress", () => {
    const runs = [
      run("young", 90),
      run("old", 10),
      run("retries", 80, "retrying"),
      run("loops and is stuck", 70, "looping", "stuck"),
      run("loops", 60, "looping"),
    ];
    expect(sortInProgress(runs).map((each) => each.run)).toEqual([
      "loops and is stuck",
      "loops",
      "retries",
      "old",
      "young",
    ]);
  });
});

describe("describePath", () => {
  it.each([
    [[], ""],
    [["Load"], "Load"],
    [["Load", "Draft", "Send"], "Load › Draft › Send"],
    [["Draft", "Draft", "Draft"], "Draft ×3"],
    [["Load", "A", "B", "A", "B", "A", "B", "Send"], "Load › (A › B) ×3 › Send"],
    [["A", "B", "A"], "A › B › A"],
    [["A", "A", "B", "A", "A", "B"], "(A › A › B) ×2"],
  ])("counts the repeats of %j", (path, text) => {
    expect(describePath(path)).toBe(text);
  });

  it("is quick for a long run", () => {
    const path = Array.from({ length: 10_000 }, (_, index) => `Node${index % 3}`);
    expect(describePath(path)).toBe("(Node0 › Node1 › Node2) ×3333 › Node0");
  });
});

it("counts the visits of a run that came back to nodes", () => {
  const path = ["Load", "Draft", "Review", "Draft"];
  expect(describeVisits(path, [1, 12, 11])).toBe(
    "Load › Draft ×12 › Review ×11 › Draft",
  );
});

describe("ends", () => {
  it("says why a run ended", () => {
    expect(describeReason("unmatched_action", "retry")).toBe(
      'dead end: no edge for "retry"',
    );
    expect(describeReason("from a later version", "")).toBe("from a later version");
  });

  it("marks dead ends and exceptions", () => {
    const reasons = ["error", "unmatched_action", "no_successors", "cancelled"];
    expect(reasons.filter((reason) => isBadEnd({ reason }))).toEqual(
      reasons.slice(0, 2),
    );
  });
});
