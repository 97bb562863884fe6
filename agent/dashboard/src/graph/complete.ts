// Completion of the find and hide language.
import { exampleOf, METRICS, STATES, type MetricName } from "./find";

/** One proposal of the completion: what the text becomes, and what it means. */
export interface Completion {
  text: string;
  label: string;
  hint: string;
}

const MAX_COMPLETIONS = 8;

/** Returns proposals for the word at the end of a text. */
export function completeFind(text: string, names: readonly string[]): Completion[] {
  const word = /[^\s()<>=!"]*$/.exec(text)![0];
  const before = text.slice(0, text.length - word.length);
  if (/[<>=]\s*$/.test(before) || (before.match(/(?<!\\)"/g) ?? []).length % 2)
    return [];
  const wanted = word.toLowerCase();
  const candidates: [label: string, insert: string, hint: string][] = [
    ...Object.entries(STATES).map(([name, hint]): [string, string, string] => [
      name,
      name,
      hint,
    ]),
    ...Object.entries(METRICS).map(([name, [, hint]]): [string, string, string] => [
      exampleOf(name as MetricName),
      `${name} > `,
      hint,
    ]),
    ...names.map((name): [string, string, string] => [name, quote(name), "name"]),
  ];
  return candidates
    .filter(([label]) => label.toLowerCase().includes(wanted) && label !== word)
    .sort(
      (a, b) =>
        Number(!a[0].toLowerCase().startsWith(wanted)) -
        Number(!b[0].toLowerCase().startsWith(wanted)),
    )
    .slice(0, MAX_COMPLETIONS)
    .map(([label, insert, hint]) => ({ text: before + insert, label, hint }));
}

/** Returns a name as it is written in the language. */
export function quote(name: string): string {
  return `"${name.replace(/[\\"]/g, "\\$&")}"`;
}
