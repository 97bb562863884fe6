import { useState } from "preact/hooks";
import "./timeline.css";
import { agentTime } from "../state/live";
import { useRequest } from "../state/polled";
import { route } from "../state/route";
import { severityLevel, StatusMark } from "../ui/badge";
import { formatDuration, formatTime } from "../ui/format";
import { Link } from "../ui/link";
import { Empty, ErrorNotice, Panel, Skeleton } from "../ui/panel";
import { barPosition, listTicks } from "./axis";
import type { AlertEpisode, EpisodeList, EpisodeRow } from "./types";

const REFRESH_SECONDS = 5;

/** When alerts fired within the time range: a row for each alert, a bar for each episode. */
export function EpisodeTimeline({ service }: { service: string | null }) {
  const { window, end } = route.value;
  const { value, error } = useRequest<EpisodeList>(
    "api/v1/episodes",
    { service, window, end },
    end === null ? REFRESH_SECONDS : null,
  );
  const [shown, setShown] = useState<string | null>(null);
  return (
    <Panel
      title="When alerts fired"
      actions={
        <span class="quiet">
          {value && `${formatTime(value.start)} to ${formatTime(value.end)}`}
        </span>
      }
    >
      {error && <ErrorNotice error={error} />}
      {!value && !error && <Skeleton />}
      {value && value.alerts.length === 0 && (
        <Empty title={`No alert fired within ${window}.`} />
      )}
      {value && value.alerts.length > 0 && (
        <div class="episodes" onMouseLeave={() => setShown(null)}>
          <ol>
            {value.alerts.map((row) => (
              <Row key={row.alert} row={row} range={value} onShow={setShown} />
            ))}
          </ol>
          <Axis range={value} />
          <p class="quiet" aria-live="polite">
            {shown ?? "Point at a bar to see why the alert fired."}
            {value.matching > value.alerts.length &&
              ` ${value.matching - value.alerts.length} more alerts are not shown.`}
          </p>
        </div>
      )}
    </Panel>
  );
}

interface RowProps {
  row: EpisodeRow;
  range: EpisodeList;
  onShow: (text: string) => void;
}

function Row({ row, range, onShow }: RowProps) {
  const { service, graph, node } = row.labels;
  const place = [service, graph, node].filter(Boolean).join(" / ");
  const isFiring = row.episodes.some(({ end }) => end === null);
  return (
    <li>
      <span class="row-name" title={`${row.rule} ${place}`}>
        <StatusMark level={isFiring ? severityLevel(row.severity) : "quiet"} />{" "}
        <Link to={{ alert: row.alert }}>{row.rule}</Link>{" "}
        <span class="quiet">{place}</span>
      </span>
      <span class="track">
        {listTicks(range.start, range.end).map((time) => (
          <i key={time} class="tick" style={{ left: percent(range, time) }} />
        ))}
        {row.episodes.map((episode) => (
          <Bar
            key={episode.start}
            row={row}
            episode={episode}
            range={range}
            onShow={() => onShow(`${row.rule}, ${describe(row, episode)}`)}
          />
        ))}
      </span>
    </li>
  );
}

interface BarProps {
  row: EpisodeRow;
  episode: AlertEpisode;
  range: EpisodeList;
  onShow: () => void;
}

function Bar({ row, episode, range, onShow }: BarProps) {
  const { left, width } = barPosition(episode, range.start, range.end);
  // An episode that has ended looks different, whatever its severity was.
  const level = episode.end === null ? severityLevel(row.severity) : "quiet";
  return (
    <span
      class={`bar ${level} ${episode.end === null ? "lasting" : ""}`}
      style={{ left: `${left}%`, width: `${width}%` }}
      onMouseEnter={onShow}
      onFocusIn={onShow}
    >
      <Link to={{ alert: row.alert }} title={describe(row, episode)}>
        <StatusMark level={level} />
        <span class="hidden">{`${row.rule}: ${describe(row, episode)}`}</span>
      </Link>
    </span>
  );
}

function describe(row: EpisodeRow, { start, end, text }: AlertEpisode): string {
  const seconds = (end ?? agentTime.value) - start;
  const length =
    end === null
      ? `fires for ${formatDuration(Math.max(0, Math.round(seconds)))}`
      : `fired for ${formatDuration(Math.round(seconds))}`;
  return `${row.severity}: ${length} since ${formatTime(start)}: ${text}`;
}

function Axis({ range }: { range: EpisodeList }) {
  return (
    <div class="axis" aria-hidden="true">
      {listTicks(range.start, range.end).map((time) => (
        <span key={time} style={{ left: percent(range, time) }}>
          {formatTime(time, range.end).replace(/:00$/, "")}
        </span>
      ))}
    </div>
  );
}

const percent = ({ start, end }: EpisodeList, time: number) =>
  `${(100 * (time - start)) / (end - start)}%`;
