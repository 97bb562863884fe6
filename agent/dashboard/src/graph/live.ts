import { signal } from "@preact/signals";
import type { Live } from "../api/types";
export const live = signal<Live | null>(null);
