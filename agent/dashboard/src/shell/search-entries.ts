// Which names a search text matches, and in which order.

export interface Entry {
  kind: string;
  name: string;
  /** Where it is; matched too, but less. */
  context: string;
}

/** Returns the entries with all words of the text, those that begin with it first. */
export function findEntries<T extends Entry>(entries: readonly T[], text: string): T[] {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return [...entries];
  const ranked: [number, T][] = [];
  for (const entry of entries) {
    const name = entry.name.toLowerCase();
    const all = `${name} ${entry.context} ${entry.kind}`.toLowerCase();
    if (!words.every((word) => all.includes(word))) continue;
    const first = words[0] as string;
    const rank =
      name === first ? 0 : name.startsWith(first) ? 1 : name.includes(first) ? 2 : 3;
    ranked.push([rank, entry]);
  }
  // The sort is stable: equal ranks keep their order.
  return ranked.sort(([a], [b]) => a - b).map(([, entry]) => entry);
}

/**
 * Returns how the id of a run begins, if the text may be one: the agent is asked for runs
 * that have ended. An id is one word, and a shorter beginning fits too many.
 */
export function runPrefix(text: string): string | null {
  const word = text.trim();
  return word.length >= 2 && !/\s/.test(word) ? word : null;
}
