import { useState } from "preact/hooks";
import "./timeline.css";
import { ChartPanel } from "../charts/panel";
import { agentTime } from "../state/live";
import { useRequest } from "../state/polled";
import { route } from "../state/route";
import { severityLevel, StatusMark } from "../ui/badge";
import { formatNumber, formatPlural, formatTime } from "../ui/format";
import { Link } from "../ui/link";
import { Empty, ErrorNotice, Skeleton } from "../ui/panel";
import { axisLabel, barPosition, listTicks } from "./axis";
import { describeEpisode, episodeLevel, episodeTable, placeOf } from "./episodes";
import { drawEpisodes } from "./picture";
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
  const hasData = value !== null && value.alerts.length > 0;
  return (
    <ChartPanel
      title="When alerts fired"
      subject={service ?? ""}
      table={() => episodeTable(value!, agentTime.value)}
      hasData={hasData}
      picture={() => drawEpisodes(value!)}
      info={
        <span class="quiet">
          {value && `${formatTime(value.start)} to ${formatTime(value.end)}`}
        </span>
      }
    >
      {error && <ErrorNotice error={error} />}
      {!value && !error && <Skeleton />}
      {value && !hasData && <Empty title={`No alert fired within ${window}.`} />}
      {hasData && <Bars list={value} />}
    </ChartPanel>
  );
}

function Bars({ list }: { list: EpisodeList }) {
  const [shown, setShown] = useState<string | null>(null);
  const { alerts, matching } = list;
  return (
    <div class="episodes" onMouseLeave={() => setShown(null)}>
      <ol>
        {alerts.map((row) => (
          <Row key={row.alert} row={row} range={list} onShow={setShown} />
        ))}
      </ol>
      <Axis range={list} />
      <p class="quiet" aria-live="polite">
        {shown ?? "Point at a bar to see why the alert fired."}
        {matching > alerts.length &&
          ` The latest ${formatNumber(alerts.length)} of ${formatPlural(matching, "alert")}.`}
      </p>
    </div>
  );
}

interface RowProps {
  row: EpisodeRow;
  range: EpisodeList;
  onShow: (text: string) => void;
}

function Row({ row, range, onShow }: RowProps) {
  const place = placeOf(row);
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
            onShow={() =>
              onShow(`${row.rule}, ${describeEpisode(row, episode, agentTime.value)}`)
            }
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
  const level = episodeLevel(row, episode);
  const text = describeEpisode(row, episode, agentTime.value);
  return (
    <span
      class={`bar ${level} ${episode.end === null ? "lasting" : ""}`}
      style={{ left: `${left}%`, width: `${width}%` }}
      onMouseEnter={onShow}
      onFocusIn={onShow}
    >
      <Link to={{ alert: row.alert }} title={text}>
        <StatusMark level={level} />
        <span class="hidden">{`${row.rule}: ${text}`}</span>
      </Link>
    </span>
  );
}

function Axis({ range }: { range: EpisodeList }) {
  return (
    <div class="axis" aria-hidden="true">
      {listTicks(range.start, range.end).map((time) => (
        <span key={time} style={{ left: percent(range, time) }}>
          {axisLabel(time, range.end)}
        </span>
      ))}
    </div>
  );
}

const percent = ({ start, end }: EpisodeList, time: number) =>
  `${(100 * (time - start)) / (end - start)}%`;
