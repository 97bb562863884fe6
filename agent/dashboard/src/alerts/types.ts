// The responses about alerts, rules and silences, as far as they are shown.

export interface Alert {
  id: string;
  rule: string;
  severity: string;
  labels: Record<string, string>;
  state: "ok" | "pending" | "firing" | "recovering";
  since: number;
  summary: string;
  condition: string;
  value: number | null;
  threshold: number | null;
  unit: string;
  window_seconds: number;
  executions: number;
  errors: number;
  fired: number | null;
  ended: number | null;
  reason: string;
  note: string;
  flapping: boolean;
  receivers: string[];
  suppressed: Record<string, string>;
  notified: Record<string, unknown>;
  silenced_by: string[];
  runbook_url: string;
}

export interface TimelineEntry {
  time: number;
  text: string;
  before: string;
  after: string;
  episode: number;
  value: number | null;
  threshold: number | null;
  executions: number;
}

/** One period from firing to resolved; `end` null: it lasts. */
export interface AlertEpisode {
  number: number;
  start: number;
  end: number | null;
  text: string;
}

/** GET /api/v1/episodes?service=&window=&end= */
export interface EpisodeList {
  start: number;
  end: number;
  matching: number;
  alerts: EpisodeRow[];
}

export interface EpisodeRow {
  alert: string;
  rule: string;
  severity: string;
  labels: Record<string, string>;
  state: Alert["state"];
  episodes: AlertEpisode[];
}

export interface Message {
  id: string;
  status: "pending" | "sent" | "dead" | "superseded";
  kind: string;
  created: number;
  settled: number | null;
  next_attempt: number | null;
  attempts: number;
  error: string;
}

export interface AlertDetails {
  alert: Alert;
  timeline: TimelineEntry[];
  episodes: AlertEpisode[];
  left_out: number;
  worst: { time: number; value: number | null; executions: number } | null;
  context: {
    error_classes: [string, number][];
    transition: string;
    evidence: {
      time: number;
      node: string;
      type: string;
      message: string;
      run: string;
    }[];
  } | null;
  receivers: {
    receiver: string;
    type: string;
    suppressed: { text: string } | null;
    messages: { subject: { summary: string }; message: Message }[];
  }[];
}

export interface Rule {
  rule: string;
  kind: string;
  condition: string;
  sentence: string;
  unit: string;
  severity: string;
  window: number;
  built_in: boolean;
  groups: number;
  states: Record<string, number>;
}

export interface RuleDetails {
  evaluated: number;
  problem: string;
  rule: Rule;
  alerts: Alert[];
  nearest: {
    alert: string;
    labels: Record<string, string>;
    status: "breach" | "band" | "clear" | "unknown";
    value: number | null;
    threshold: number | null;
    executions: number;
    text: string;
  }[];
}

export interface Silence {
  id: string;
  status: { state: "active" | "pending" | "expired" };
  matchers: { name: string; value: string; isRegex: boolean; isEqual: boolean }[];
  endsAt: string;
  createdBy: string;
  comment: string;
  alerts: number;
  configured: boolean;
}
