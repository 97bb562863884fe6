import { describe, expect, it } from "vitest";
import { completeFind, quote } from "./complete";
import {
  FindError,
  MAX_LENGTH,
  METRICS,
  parseFind,
  exampleOf,
  type MetricName,
  type StateName,
  type Subject,
} from "./find";

function subject(
  figures: Subject["figures"],
  states: StateName[] = [],
  names: string[] = ["Draft"],
): Subject {
  const all: StateName[] = ["never", "bad", "llm", "loop"];
  return {
    kind: "node",
    figures,
    states: Object.fromEntries(all.map((state) => [state, states.includes(state)])),
    names,
  };
}

const slow = subject({ error: 0.02, p95: 2.5, executions: 1200, cost: 0.4 }, ["llm"]);
const failing = subject({ error: 0.2, p95: 0.1, executions: 30 }, ["bad"], ["Pay"]);
const idle = subject({ error: null, p95: null, executions: 0 }, ["never"], ["Old"]);
const edge: Subject = {
  kind: "edge",
  figures: { share: 0.4, traffic: 20 },
  states: { loop: true },
  names: ["retry"],
};

function select(text: string): string[] {
  const predicate = parseFind(text);
  return [slow, failing, idle, edge]
    .filter((each) => predicate?.(each) === true)
    .map((each) => each.names[0]!);
}

describe("parseFind", () => {
  it.each([
    ["error > 5%", ["Pay"]],
    ["error > 0.05", ["Pay"]],
    ["error>5%", ["Pay"]],
    ["p95 > 2s", ["Draft"]],
    ["p95 > 2 s", ["Draft"]],
    ["p95 >= 2500ms", ["Draft"]],
    ["p95 < 1m", ["Draft", "Pay"]],
    ["executions >= 1.2k", ["Draft"]],
    ["cost > $0.30", ["Draft"]],
    ["never", ["Old"]],
    ["not never", ["Draft", "Pay"]],
    ["! never", ["Draft", "Pay"]],
    ["not pay", ["Draft", "Old"]],
    ["retry or pay", ["Pay", "retry"]],
    ["not loop", ["Draft", "Pay", "Old"]],
    ["bad or never", ["Pay", "Old"]],
    ["error > 1% and p95 > 1s", ["Draft"]],
    ["error > 1% p95 > 1s", ["Draft"]],
    ["bad or llm and p95 > 9s", ["Pay"]],
    ["(bad or llm) and p95 > 1s", ["Draft"]],
    ["NEVER OR Bad", ["Pay", "Old"]],
    ["dra", ["Draft"]],
    ["D*t", ["Draft"]],
    ["*", ["Draft", "Pay", "Old", "retry"]],
    ['"pay"', ["Pay"]],
    ['"pa"', []],
    ["share > 30%", ["retry"]],
    ["loop", ["retry"]],
    ["executions = 0", ["Old"]],
    ["executions != 0", ["Draft", "Pay"]],
  ])("selects by %s", (text, expected) => {
    expect(select(text)).toEqual(expected);
  });

  it("selects nothing by a condition that does not apply, nor by its negation", () => {
    expect(select("p95 > 0")).toEqual(["Draft", "Pay"]);
    expect(select("not p95 > 9h")).toEqual(["Draft", "Pay"]);
  });

  it("has no predicate for an empty text", () => {
    expect(parseFind("")).toBeNull();
    expect(parseFind("  ")).toBeNull();
  });

  it.each([
    ["error", '"error" needs a comparison, such as error > 5%', 0],
    ["error > 5s", '"5s" is not valid for error; an example is error > 5%.', 8],
    ["error > 50", "error is a share from 0 to 1; did you mean 50%?", 8],
    ["p95 > 5%", '"5%" is not valid for p95; an example is p95 > 2s.', 6],
    ["latency > 2s", 'Unknown metric "latency"; known: error,', 0],
    ["__proto__ > 2", 'Unknown metric "__proto__"', 0],
    ["error >", 'A number is missing after ">"', 7],
    ["error > fast", 'A number is missing after ">"', 8],
    ["(never", 'A "(" has no ")".', 0],
    ["never)", 'Unexpected ")".', 5],
    ["never and", "A condition or a name is missing at the end.", 9],
    ["or never", 'A condition or a name is missing before "or".', 0],
    ["> 5", 'Unexpected ">".', 0],
    ['"Load', 'A name in quotes has no closing ".', 0],
    ["x".repeat(MAX_LENGTH + 1), "The text is longer than", MAX_LENGTH],
    ["(".repeat(400), "More than 40 levels of brackets.", 40],
    ["not ".repeat(120), "More than 40 levels of brackets.", 160],
  ])("explains what is wrong with %s", (text, message, start) => {
    const error = errorOf(text);
    expect(error.message).toContain(message);
    expect(error.start).toBe(start);
  });

  it("throws nothing but its own error, whatever is typed", () => {
    const parts = [
      "error",
      ">",
      "5%",
      "(",
      ")",
      "not",
      "and",
      "or",
      '"',
      "\\",
      "*",
      "!",
    ];
    const more = [
      "never",
      "$",
      "%",
      "=",
      "1e999",
      "\u0000",
      "__proto__",
      "constructor",
      " ",
    ];
    let seed = 7;
    const random = (below: number) =>
      (seed = (seed * 1103515245 + 12345) % 2147483648) % below;
    const all = [...parts, ...more];
    for (let round = 0; round < 5000; round++) {
      const text = Array.from(
        { length: random(12) },
        () => all[random(all.length)],
      ).join(random(2) ? " " : "");
      try {
        expect([true, false, null, undefined]).toContain(parseFind(text)?.(slow));
      } catch (error) {
        expect(error).toBeInstanceOf(FindError);
      }
    }
  });

  it("matches a pattern of many stars in linear time", () => {
    const text = "a*".repeat(200) + "b";
    const predicate = parseFind(text);
    expect(predicate?.(subject({}, [], ["a".repeat(2000)]))).toBe(false);
  });

  it("understands its own examples", () => {
    for (const metric of Object.keys(METRICS)) {
      expect(parseFind(exampleOf(metric as MetricName))).not.toBeNull();
    }
  });

  it("finds every name by its quoted form", () => {
    for (const name of [
      'a"b',
      "a\\b",
      "<img src=x>",
      "not",
      "error > 5%",
      "名前",
      "*",
    ]) {
      expect(parseFind(quote(name))?.(subject({}, [], [name]))).toBe(true);
    }
  });
});

describe("completeFind", () => {
  it("proposes states, metrics and names", () => {
    const labels = completeFind("er", ["Answer"]).map((each) => each.label);
    expect(labels).toEqual(["error > 5%", "never", "Answer"]);
  });

  it("replaces only the last word", () => {
    expect(completeFind("bad or nev", [])[0]?.text).toBe("bad or never");
    expect(completeFind("not (Dra", ["Draft"])[0]?.text).toBe('not ("Draft"');
  });

  it("proposes nothing where a number or the rest of a name belongs", () => {
    expect(completeFind("error > ", ["Draft"])).toEqual([]);
    expect(completeFind('"Dra', ["Draft"])).toEqual([]);
  });
});

function errorOf(text: string): FindError {
  try {
    parseFind(text);
  } catch (error) {
    if (error instanceof FindError) return error;
  }
  throw new Error(`${text} is valid`);
}
