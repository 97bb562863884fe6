// Reads server-sent events from the body of a response. EventSource cannot send a token.

export interface ServerEvent {
  name: string;
  data: string;
}

/** Yields the events of a stream, which may be cut anywhere. Source: WHATWG HTML. */
export async function* readEvents(
  body: ReadableStream<Uint8Array>,
): AsyncGenerator<ServerEvent> {
  const decoder = new TextDecoder();
  const reader = body.getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + decoder.decode(value, { stream: true })).split("\n\n");
      rest = blocks.pop() ?? "";
      for (const block of blocks) {
        const event = parseEvent(block);
        if (event) yield event;
      }
    }
  } finally {
    // Fails if the connection did, which the reader has already reported.
    await reader.cancel().catch(() => undefined);
  }
}

/** Returns an event, or null for a comment or a field without data. */
function parseEvent(block: string): ServerEvent | null {
  let name = "message";
  const data: string[] = [];
  for (const line of block.split("\n")) {
    const end = line.includes(":") ? line.indexOf(":") : line.length;
    const field = line.slice(0, end);
    const value = line.slice(end + (line[end + 1] === " " ? 2 : 1));
    if (field === "event") name = value;
    else if (field === "data") data.push(value);
  }
  return data.length ? { name, data: data.join("\n") } : null;
}
