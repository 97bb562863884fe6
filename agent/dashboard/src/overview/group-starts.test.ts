import { expect, test } from "vitest";
import type { Change } from "../api/types";
import { groupStarts } from "./group-starts";

const change = (time: number, service: string, kind: Change["kind"]): Change => ({
  time,
  kind,
  service,
  graph: "",
  node: "",
  text: kind,
  severity: "",
});

test("processes of a service that start together are one change", () => {
  const changes = [
    change(300, "shop", "process_started"),
    change(290, "shop", "process_died"),
    change(280, "desk", "process_started"),
    change(250, "shop", "process_started"),
    change(100, "shop", "process_started"),
  ];
  expect(groupStarts(changes).map(({ time, text }) => [time, text])).toEqual([
    [300, "2 processes started"],
    [290, "process_died"],
    [280, "process_started"],
    [100, "process_started"],
  ]);
});
