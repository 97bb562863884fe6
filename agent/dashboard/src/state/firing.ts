// The places with a firing alert.
import { computed } from "@preact/signals";
import { live } from "./live";

/** The key of a graph, or of a node of it; of any service where that is empty. */
const placeKey = (service: string, graph: string, node = "") =>
  JSON.stringify([service, graph, node]);

// As text, so that a table is rendered only when the places have changed.
const keys = computed(() => {
  const firing = live.value?.alerts.filter(({ state }) => state === "firing") ?? [];
  const places = firing.flatMap(
    ({ labels: { service = "", graph = "", node = "" } }) =>
      graph ? [placeKey(service, graph), placeKey(service, graph, node)] : [],
  );
  return [...new Set(places)].sort().join("\n");
});

/** The keys of the places; the same set until one of them changes. */
export const firingPlaces = computed<ReadonlySet<string>>(
  () => new Set(keys.value.split("\n")),
);

/** Whether an alert of a graph, or of a node of it, fires. */
export const isFiring = (service: string, graph: string, node = "") =>
  [service, ""].some((each) => firingPlaces.value.has(placeKey(each, graph, node)));
