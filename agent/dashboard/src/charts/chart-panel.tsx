import type { ComponentChildren } from "preact";
import { Panel } from "../ui/panel";

interface ChartPanelProps {
  title: string;
  children: ComponentChildren;
  onCsv?: () => void;
  onPng?: () => void;
}

/** The frame of a chart, with its exports. */
export function ChartPanel({ title, children, onCsv, onPng }: ChartPanelProps) {
  const button = (name: string, action?: () => void) =>
    action && (
      <button type="button" aria-label={`Save ${title} as ${name}`} onClick={action}>
        {name}
      </button>
    );
  return (
    <Panel
      title={title}
      class="chart"
      actions={
        <span class="exports">
          {button("CSV", onCsv)}
          {button("PNG", onPng)}
        </span>
      }
    >
      {children}
    </Panel>
  );
}
