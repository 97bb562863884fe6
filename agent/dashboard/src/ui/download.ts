// Files that the page offers.

/** Offers data as a file. */
export function download(data: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(data);
  link.download = name;
  link.click();
  // The download has to begin before its address is released.
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const MAX_LENGTH = 100;

/** Returns a file name from any text. */
export function fileName(text: string, extension: string): string {
  const name = text.replace(/[^\p{L}\p{N}._-]+/gu, "-").slice(0, MAX_LENGTH);
  return `${name || "kaywatch"}.${extension}`;
}
