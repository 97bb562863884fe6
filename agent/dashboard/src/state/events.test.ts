import { expect, test } from "vitest";
import { readEvents } from "./events";

const TEXT =
  'retry: 2000\n\nid: 1\nevent: full\ndata: {"name":"ä: b"}\n\n: keep-alive\n\n' +
  "event: changes\ndata: {}\n\nevent: cut off\ndata: {";

const EVENTS = [
  { name: "full", data: '{"name":"ä: b"}' },
  { name: "changes", data: "{}" },
];

test.each([1, 2, 7, 1000])(
  "events that arrive in pieces of %d bytes are whole",
  async (size) => {
    const bytes = new TextEncoder().encode(TEXT);
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        for (let at = 0; at < bytes.length; at += size) {
          controller.enqueue(bytes.slice(at, at + size));
        }
        controller.close();
      },
    });
    const events = [];
    for await (const event of readEvents(body)) events.push(event);
    expect(events).toEqual(EVENTS);
  },
);
