// A slider over the last hour: the graph as it was.
import { useEffect, useRef, useState } from "preact/hooks";

export const REPLAY = {
  /** How far back the agent has buckets of 10 s. */
  seconds: 3600,
  step: 30,
  /** Between two steps while it plays. */
  every: 700,
};

interface ReplayProps {
  /** The time that is shown, and now, in Unix seconds. */
  time: number;
  now: number;
  window: string;
  isLoading: boolean;
  onChange: (time: number) => void;
  onClose: () => void;
}

export function ReplayBar(props: ReplayProps) {
  const { time, now, onChange } = props;
  const [isPlaying, setPlaying] = useState(false);
  const latest = useRef(props);
  latest.current = props;
  useEffect(() => {
    if (!isPlaying) return;
    const timer = setInterval(() => {
      const { time, now, isLoading, onChange } = latest.current;
      if (isLoading) return;
      if (time + REPLAY.step >= now) setPlaying(false);
      onChange(Math.min(now, time + REPLAY.step));
    }, REPLAY.every);
    return () => clearInterval(timer);
  }, [isPlaying]);
  const first = now - REPLAY.seconds;
  const back = Math.round(now - time);
  return (
    <div class="replay" role="group" aria-label="Replay of the last hour">
      <button
        type="button"
        onClick={() => {
          if (!isPlaying && time + REPLAY.step >= now) onChange(first);
          setPlaying(!isPlaying);
        }}
      >
        {isPlaying ? "Pause" : "Play"}
      </button>
      <input
        type="range"
        aria-label="Time"
        aria-valuetext={describeTime(time, back)}
        min={0}
        max={REPLAY.seconds}
        step={REPLAY.step}
        value={REPLAY.seconds - back}
        onInput={(event) => onChange(first + Number(event.currentTarget.value))}
      />
      <output>
        {describeTime(time, back)}, figures of {props.window}
      </output>
      <button type="button" onClick={props.onClose}>
        Back to live
      </button>
    </div>
  );
}

function describeTime(time: number, back: number): string {
  const clock = new Date(time * 1000).toLocaleTimeString([], { hour12: false });
  const minutes = Math.floor(back / 60);
  return `${clock} (${minutes} min ${back % 60} s ago)`;
}
