import { expect, test } from "vitest";
import { linesToCsv, toCsv } from "./csv";

test("values that need quotes have them", () => {
  expect(toCsv([["a,b", 'say "x"', "two\nlines", 0.1, null]])).toBe(
    '"a,b","say ""x""","two\nlines",0.1,\r\n',
  );
});

test.each(["=1+1", "+1", "-1", "@x", "\tx"])("%j is no formula", (text) => {
  expect(toCsv([[text]])).toBe(`'${text}\r\n`);
});

test("lines have exact values and their n", () => {
  const csv = linesToCsv([
    { name: "p50", points: [[0, 0.1234567890123, 7]] },
    { name: "p95", points: [[10, null, 0]] },
  ]);
  expect(csv).toBe(
    "time,p50,p50 n,p95,p95 n\r\n" +
      "1970-01-01T00:00:00.000Z,0.1234567890123,7,,\r\n" +
      "1970-01-01T00:00:10.000Z,,,,0\r\n",
  );
});
