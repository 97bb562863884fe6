// The find and hide language: `error > 5% and not "Load"`.
//
//   expression = term { "or" term }          term = factor { ["and"] factor }
//   factor = "not" factor | "(" expression ")" | comparison | state | name
//   comparison = metric ( ">" | ">=" | "<" | "<=" | "=" | "!=" ) number [ unit ]
//
// Strategy: a parser by descent into a tree, evaluated for each node and edge. A condition
// does not apply to everything (an edge has no p95, a node without executions has none
// either): it is then neither true nor false, `not` leaves it so, and it selects nothing.

/** A node or an edge: what applies to it, and its names. */
export interface Subject {
  kind: "node" | "edge";
  figures: Readonly<Partial<Record<MetricName, number | null>>>;
  states: Readonly<Partial<Record<StateName, boolean>>>;
  names: readonly string[];
}

type Kind = "share" | "duration" | "count" | "money";

export const METRICS = {
  error: ["share", "executions that ended with an error"],
  success: ["share", "executions that did not"],
  avg: ["duration", "mean duration"],
  p50: ["duration", "median duration"],
  p95: ["duration", "95th percentile of the duration"],
  p99: ["duration", "99th percentile of the duration"],
  time: ["share", "of the time of all nodes"],
  executions: ["count", "executions"],
  retries: ["count", "calls of exec after the first"],
  fallbacks: ["count", "executions answered by exec_fallback"],
  visits: ["count", "the most visits of one run within the last hour"],
  "in-flight": ["count", "executions in progress"],
  "dead-ends": ["count", "runs that ended at an action without an edge"],
  cost: ["money", "of its model calls"],
  wasted: ["money", "of model calls in failed attempts"],
  tokens: ["count", "of its model calls"],
  traffic: ["count", "how often an edge was taken"],
  share: ["share", "of an edge among those of its node"],
  repeats: ["count", "times that a run takes an edge back, on average"],
} as const satisfies Record<string, readonly [Kind, string]>;
export type MetricName = keyof typeof METRICS;

export const STATES = {
  never: "nodes that no run has reached",
  bad: "nodes that breach a threshold or fire an alert",
  warning: "nodes that are worse than usual",
  retried: "nodes with retries",
  fallback: "nodes answered by exec_fallback",
  running: "nodes with executions in progress",
  "dead-end": "nodes at which runs ended without an edge",
  llm: "nodes that call a language model",
  nested: "nodes that contain a graph",
  loop: "edges that lead back, and their nodes",
  start: "the first node",
} as const;
export type StateName = keyof typeof STATES;

export const MAX_LENGTH = 500;
const MAX_DEPTH = 40;

/** What is wrong, and where in the text. */
export class FindError extends Error {
  constructor(
    message: string,
    readonly start: number,
  ) {
    super(message);
  }
}

/** True, false, or null: the condition does not apply. */
export type Predicate = (subject: Subject) => boolean | null;

interface Token {
  kind: "word" | "quoted" | "number" | "operator" | "(" | ")" | "end";
  text: string;
  start: number;
}

const OPERATORS = [">=", "<=", "!=", "==", ">", "<", "="];
const STOPS = /[\s()<>=!"]/;

/** Returns the predicate of a text; null for an empty one. Throws FindError. */
export function parseFind(text: string): Predicate | null {
  if (text.length > MAX_LENGTH) {
    throw new FindError(
      `The text is longer than ${MAX_LENGTH} characters.`,
      MAX_LENGTH,
    );
  }
  const tokens = tokenize(text);
  return tokens[0]!.kind === "end" ? null : new Parser(tokens).parse();
}

function tokenize(text: string): Token[] {
  const tokens: Token[] = [];
  let at = 0;
  while (at < text.length) {
    const start = at;
    const char = text[at]!;
    if (/\s/.test(char)) {
      at++;
      continue;
    }
    const operator = OPERATORS.find((known) => text.startsWith(known, at));
    if (char === "(" || char === ")") {
      at++;
      tokens.push({ kind: char, text: char, start });
    } else if (char === '"') {
      const [value, end] = readQuoted(text, start);
      at = end;
      tokens.push({ kind: "quoted", text: value, start });
    } else if (operator) {
      at += operator.length;
      tokens.push({ kind: "operator", text: operator, start });
    } else if (char === "!") {
      at++;
      tokens.push({ kind: "word", text: "not", start });
    } else {
      while (at < text.length && !STOPS.test(text[at]!)) at++;
      const word = text.slice(start, at);
      tokens.push({ kind: /^\$?\d/.test(word) ? "number" : "word", text: word, start });
    }
  }
  tokens.push({ kind: "end", text: "", start: text.length });
  return tokens;
}

/** Reads a name in quotes, in which \" and \\ stand for themselves. */
function readQuoted(text: string, start: number): [value: string, end: number] {
  let value = "";
  for (let at = start + 1; at < text.length; at++) {
    if (text[at] === '"') return [value, at + 1];
    if (text[at] === "\\" && at + 1 < text.length) at++;
    value += text[at];
  }
  throw new FindError('A name in quotes has no closing ".', start);
}

class Parser {
  private at = 0;
  private depth = 0;

  constructor(private readonly tokens: Token[]) {}

  parse(): Predicate {
    const predicate = this.expression();
    const rest = this.peek();
    if (rest.kind !== "end") {
      throw new FindError(`Unexpected "${rest.text}".`, rest.start);
    }
    return predicate;
  }

  private expression(): Predicate {
    const terms = [this.term()];
    while (this.takeWord("or")) terms.push(this.term());
    return terms.length === 1 ? terms[0]! : anyOf(terms);
  }

  private term(): Predicate {
    const factors = [this.factor()];
    for (;;) {
      const isJoined = this.takeWord("and");
      const next = this.peek();
      const ends = next.kind === "end" || next.kind === ")" || isWord(next, "or");
      if (!isJoined && ends) break;
      factors.push(this.factor());
    }
    return factors.length === 1 ? factors[0]! : allOf(factors);
  }

  private factor(): Predicate {
    if (++this.depth > MAX_DEPTH) {
      throw new FindError(
        `More than ${MAX_DEPTH} levels of brackets.`,
        this.peek().start,
      );
    }
    try {
      return this.operand();
    } finally {
      this.depth--;
    }
  }

  private operand(): Predicate {
    const token = this.tokens[this.at++]!;
    if (token.kind === "end") {
      throw new FindError("A condition or a name is missing at the end.", token.start);
    }
    if (isWord(token, "not")) return negate(this.factor());
    if (token.kind === "(") return this.brackets(token);
    if (token.kind === "quoted") return hasName(token.text, true);
    if (token.kind === "number" || token.kind === "word") return this.word(token);
    throw new FindError(`Unexpected "${token.text}".`, token.start);
  }

  private brackets(open: Token): Predicate {
    const predicate = this.expression();
    if (this.peek().kind !== ")") {
      throw new FindError('A "(" has no ")".', open.start);
    }
    this.at++;
    return predicate;
  }

  private word(token: Token): Predicate {
    const name = token.text.toLowerCase();
    if (this.peek().kind === "operator") return this.comparison(name, token);
    if (Object.hasOwn(STATES, name)) return hasState(name as StateName);
    if (isWord(token, "and") || isWord(token, "or")) {
      throw new FindError(
        `A condition or a name is missing before "${name}".`,
        token.start,
      );
    }
    if (Object.hasOwn(METRICS, name)) {
      throw new FindError(
        `"${name}" needs a comparison, such as ${exampleOf(name as MetricName)}; ` +
          `write "${name}" in quotes if it is a name.`,
        token.start,
      );
    }
    return hasName(token.text, false);
  }

  private comparison(name: string, token: Token): Predicate {
    const operator = this.tokens[this.at++]!.text;
    if (!Object.hasOwn(METRICS, name)) {
      const known = Object.keys(METRICS).join(", ");
      throw new FindError(
        `Unknown metric "${token.text}"; known: ${known}.`,
        token.start,
      );
    }
    const metric = name as MetricName;
    const value = this.tokens[this.at++]!;
    if (value.kind !== "number") {
      throw new FindError(
        `A number is missing after "${operator}", such as ${exampleOf(metric)}.`,
        value.start,
      );
    }
    // A unit may stand apart: "2 s".
    const next = this.peek();
    const unit =
      next.kind === "word" && UNIT.test(next.text) && !/[a-z%µ]$/i.test(value.text);
    const text = unit ? value.text + this.tokens[this.at++]!.text : value.text;
    return compare(metric, operator, parseValue(metric, text, value.start));
  }

  private peek(): Token {
    return this.tokens[this.at]!;
  }

  private takeWord(word: string): boolean {
    if (!isWord(this.peek(), word)) return false;
    this.at++;
    return true;
  }
}

const UNIT = /^(%|ms|us|µs|s|m|min|h|k|usd)$/i;
const NUMBER = /^\$?(\d+(?:\.\d*)?(?:e[+-]?\d+)?)(.*)$/i;
const UNITS: Record<Kind, Record<string, number>> = {
  share: { "%": 0.01, "": 1 },
  duration: { us: 1e-6, µs: 1e-6, ms: 1e-3, s: 1, "": 1, m: 60, min: 60, h: 3600 },
  count: { "": 1, k: 1e3, m: 1e6 },
  money: { "": 1, usd: 1 },
};

function parseValue(metric: MetricName, text: string, start: number): number {
  const [kind] = METRICS[metric];
  const parts = NUMBER.exec(text);
  const unit = parts?.[2]?.toLowerCase() ?? "";
  const allowed = UNITS[kind];
  if (!parts || !Object.hasOwn(allowed, unit)) {
    throw new FindError(
      `"${text}" is not valid for ${metric}; an example is ${exampleOf(metric)}.`,
      start,
    );
  }
  const value = Number(parts[1]) * allowed[unit]!;
  if (kind === "share" && value > 1) {
    throw new FindError(
      `${metric} is a share from 0 to 1; did you mean ${parts[1]}%?`,
      start,
    );
  }
  return value;
}

/** Returns an example of a comparison, for errors and help. */
export function exampleOf(metric: MetricName): string {
  const value = { share: "5%", duration: "2s", count: "10", money: "$0.50" };
  return `${metric} > ${value[METRICS[metric][0]]}`;
}

const isWord = (token: Token, word: string) =>
  token.kind === "word" && token.text.toLowerCase() === word;

function compare(metric: MetricName, operator: string, limit: number): Predicate {
  return ({ figures }) => {
    const value = figures[metric];
    if (value === undefined || value === null) return null;
    switch (operator) {
      case ">":
        return value > limit;
      case ">=":
        return value >= limit;
      case "<":
        return value < limit;
      case "<=":
        return value <= limit;
      case "!=":
        return value !== limit;
      default:
        return value === limit;
    }
  };
}

const hasState =
  (state: StateName): Predicate =>
  ({ states }) =>
    states[state] ?? null;

/** Matches a part of a name; `*` stands for any text, and then the whole name counts. */
function hasName(pattern: string, isExact: boolean): Predicate {
  const wanted = pattern.toLowerCase();
  const parts = wanted.split("*");
  const matches = (name: string) =>
    isExact
      ? name === wanted
      : parts.length > 1
        ? matchesParts(name, parts)
        : name.includes(wanted);
  // `not "Load"` is about nodes: it does not select every edge with another action.
  return ({ kind, names }) =>
    names.some((name) => matches(name.toLowerCase())) ||
    (kind === "edge" ? null : false);
}

// Not a regular expression: `a*a*a*a*b` would take exponential time.
function matchesParts(name: string, parts: string[]): boolean {
  const [first, ...middle] = parts as [string, ...string[]];
  const last = middle.pop() as string;
  if (name.length < first.length + last.length) return false;
  if (!name.startsWith(first) || !name.endsWith(last)) return false;
  let at = first.length;
  for (const part of middle) {
    const index = name.indexOf(part, at);
    if (index < 0) return false;
    at = index + part.length;
  }
  return at <= name.length - last.length;
}

const negate =
  (predicate: Predicate): Predicate =>
  (subject) => {
    const value = predicate(subject);
    return value === null ? null : !value;
  };

const anyOf =
  (terms: Predicate[]): Predicate =>
  (subject) =>
    combine(terms, subject, true);

const allOf =
  (factors: Predicate[]): Predicate =>
  (subject) =>
    combine(factors, subject, false);

/** Returns `decisive` if one is, null if one does not apply, else the opposite. */
function combine(predicates: Predicate[], subject: Subject, decisive: boolean) {
  let result: boolean | null = !decisive;
  for (const predicate of predicates) {
    const value = predicate(subject);
    if (value === decisive) return decisive;
    if (value === null) result = null;
  }
  return result;
}
