// The drawing: pans and zooms by mouse, touch and keys, and moves the focus along edges.
import { useComputed, useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { CanvasContent } from "./content";
import { withoutHidden, type Marks, type Moved } from "./marks";
import {
  fit,
  nodeTowards,
  zoom,
  type Arrow,
  type Scene,
  type SceneNode,
  type Viewport,
} from "./scene";

export interface CanvasProps {
  scene: Scene;
  marks: Marks;
  title: string;
  selected: string | null;
  moved: Moved;
  onOpen: (item: SceneNode) => void;
  onToggle: (item: SceneNode) => void;
  onClose: () => void;
}

const ARROWS: Record<string, Arrow> = {
  ArrowLeft: "left",
  ArrowRight: "right",
  ArrowUp: "up",
  ArrowDown: "down",
};
const KEY_ZOOM = 1.25;
const PAN = 60;
// Of a card's texts: below the first scale they are fewer and larger, below the second
// only the name can be read.
const LEGIBLE = { all: 0.85, some: 0.5 };

export function GraphCanvas(props: CanvasProps) {
  const { scene } = props;
  const svg = useRef<SVGSVGElement>(null);
  const view = useSignal<Viewport>({ x: 0, y: 0, scale: 1 });
  const isAdjusted = useRef(false);
  const [focused, setFocused] = useState<string | null>(null);
  const refit = () => {
    const box = svg.current?.getBoundingClientRect();
    if (box?.width) view.value = fit(scene, box.width, box.height);
    isAdjusted.current = false;
  };
  const adjust = (next: Viewport) => {
    isAdjusted.current = true;
    view.value = next;
  };
  // Whatever changes the size of the drawing or of the window keeps the whole in view.
  useLayoutEffect(() => {
    if (!isAdjusted.current) refit();
    const observer = new ResizeObserver(() => {
      if (!isAdjusted.current) refit();
    });
    if (svg.current) observer.observe(svg.current);
    return () => observer.disconnect();
  }, [scene.width, scene.height]);
  usePanAndZoom(svg, view, adjust);
  const transform = useComputed(
    () => `translate(${view.value.x} ${view.value.y}) scale(${view.value.scale})`,
  );
  const detail = useComputed(() => detailAt(view.value.scale));
  const focus = (item: SceneNode | null | undefined) => {
    if (!item) return;
    setFocused(item.key);
    reveal(item, svg.current, view.value, adjust);
    findNode(svg.current, item.key)?.focus({ preventScroll: true });
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (
      handleKey(event, props, view.value, { focus, refit, adjust, svg: svg.current })
    ) {
      event.preventDefault();
      event.stopPropagation();
    }
  };
  const entry = focusEntry(withoutHidden(scene, props.marks), props.selected, focused);
  return (
    <div class="canvas">
      <svg
        ref={svg}
        role="group"
        aria-label={props.title}
        onKeyDown={onKeyDown}
        onDblClick={refit}
      >
        <g transform={transform} data-detail={detail}>
          <CanvasContent
            {...props}
            entry={entry}
            onFocus={(item) => setFocused(item.key)}
          />
        </g>
      </svg>
      <ZoomButtons
        onZoom={(factor) => {
          const box = svg.current!.getBoundingClientRect();
          adjust(zoom(view.value, factor, box.width / 2, box.height / 2));
        }}
        onFit={refit}
      />
    </div>
  );
}

function detailAt(scale: number): "near" | "middle" | "far" {
  if (scale >= LEGIBLE.all) return "near";
  return scale >= LEGIBLE.some ? "middle" : "far";
}

/** Returns the one node that Tab leads to. */
function focusEntry(scene: Scene, selected: string | null, focused: string | null) {
  const keys = new Set(scene.nodes.map(({ key }) => key));
  for (const key of [focused, selected]) if (key !== null && keys.has(key)) return key;
  return (scene.nodes.find(({ node }) => node.is_start) ?? scene.nodes[0])?.key ?? null;
}

function findNode(svg: SVGSVGElement | null, key: string): SVGGElement | null {
  return svg?.querySelector<SVGGElement>(`[data-key="${CSS.escape(key)}"]`) ?? null;
}

/** Pans just as far as a node that got the focus needs. */
function reveal(
  item: SceneNode,
  svg: SVGSVGElement | null,
  view: Viewport,
  adjust: (view: Viewport) => void,
): void {
  const box = svg?.getBoundingClientRect();
  if (!box) return;
  const shift = (start: number, length: number, offset: number, size: number) => {
    const low = start * view.scale + offset;
    const high = low + length * view.scale;
    return low < 0 ? 16 - low : high > size ? Math.max(size - 16 - high, -low) : 0;
  };
  const dx = shift(item.x, item.width, view.x, box.width);
  const dy = shift(item.y, item.height, view.y, box.height);
  if (dx || dy) adjust({ ...view, x: view.x + dx, y: view.y + dy });
}

interface Actions {
  svg: SVGSVGElement | null;
  focus: (item: SceneNode | null | undefined) => void;
  refit: () => void;
  adjust: (view: Viewport) => void;
}

/** Returns whether the key means something here. */
function handleKey(
  event: KeyboardEvent,
  props: CanvasProps,
  view: Viewport,
  actions: Actions,
): boolean {
  const { scene, marks } = props;
  const key = (event.target as Element).getAttribute("data-key");
  const item = scene.nodes.find((each) => each.key === key);
  const arrow = ARROWS[event.key];
  if (arrow && event.shiftKey) {
    const [x, y] = { left: [PAN, 0], right: [-PAN, 0], up: [0, PAN], down: [0, -PAN] }[
      arrow
    ];
    actions.adjust({ ...view, x: view.x + x!, y: view.y + y! });
    return true;
  }
  if (arrow) {
    const visible = withoutHidden(scene, marks);
    actions.focus(item ? nodeTowards(visible, item, arrow) : visible.nodes[0]);
    return true;
  }
  return handleCommand(event.key, item, props, view, actions);
}

function handleCommand(
  key: string,
  item: SceneNode | undefined,
  props: CanvasProps,
  view: Viewport,
  { svg, focus, refit, adjust }: Actions,
): boolean {
  const box = svg?.getBoundingClientRect();
  const scale = (factor: number) =>
    box && adjust(zoom(view, factor, box.width / 2, box.height / 2));
  const commands: Record<string, () => void> = {
    "+": () => scale(KEY_ZOOM),
    "=": () => scale(KEY_ZOOM),
    "-": () => scale(1 / KEY_ZOOM),
    "0": refit,
    Home: () => focus(props.scene.nodes.find(({ node }) => node.is_start)),
    Escape: props.onClose,
    Enter: () => item && props.onOpen(item),
    " ": () =>
      item && (item.node.subgraph !== null ? props.onToggle(item) : props.onOpen(item)),
  };
  if (!Object.hasOwn(commands, key)) return false;
  commands[key]!();
  return true;
}

// Less is a click with an unsteady hand.
const DRAG_PIXELS = 4;

function usePanAndZoom(
  svg: { readonly current: SVGSVGElement | null },
  view: { value: Viewport },
  adjust: (view: Viewport) => void,
): void {
  useEffect(() => {
    const element = svg.current;
    if (!element) return;
    const stop = new AbortController();
    const pointers = new Map<number, { x: number; y: number }>();
    let hasDragged = false;
    const at = (event: MouseEvent) => {
      const box = element.getBoundingClientRect();
      return { x: event.clientX - box.left, y: event.clientY - box.top };
    };
    const listen = <K extends keyof SVGElementEventMap>(
      name: K,
      handle: (event: SVGElementEventMap[K]) => void,
    ) =>
      element.addEventListener(name, handle, { signal: stop.signal, passive: false });

    listen("wheel", (event) => {
      event.preventDefault();
      const { x, y } = at(event);
      const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
      adjust(zoom(view.value, Math.exp(-event.deltaY * lines * 0.0015), x, y));
    });
    listen("pointerdown", (event) => {
      if (event.button !== 0) return;
      if (pointers.size === 0) hasDragged = false;
      pointers.set(event.pointerId, at(event));
    });
    listen("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      const now = at(event);
      const far = Math.hypot(now.x - before.x, now.y - before.y);
      if (!hasDragged && pointers.size === 1 && far < DRAG_PIXELS) return;
      hasDragged = true;
      element.setPointerCapture(event.pointerId);
      adjust(moved(view.value, before, now, other(pointers, event.pointerId)));
      pointers.set(event.pointerId, now);
    });
    const release = (event: PointerEvent) => void pointers.delete(event.pointerId);
    listen("pointerup", release);
    listen("pointercancel", release);
    element.addEventListener(
      "click",
      (event) => {
        if (hasDragged) event.stopPropagation();
        hasDragged = false;
      },
      { signal: stop.signal, capture: true },
    );
    return () => stop.abort();
  }, []);
}

interface Position {
  x: number;
  y: number;
}

function other(pointers: ReadonlyMap<number, Position>, id: number): Position | null {
  for (const [key, position] of pointers) if (key !== id) return position;
  return null;
}

/** Returns the viewport after a pointer has moved; a second one that rests zooms. */
function moved(view: Viewport, before: Position, now: Position, rest: Position | null) {
  if (!rest)
    return { ...view, x: view.x + now.x - before.x, y: view.y + now.y - before.y };
  const distance = (a: Position, b: Position) =>
    Math.max(1, Math.hypot(a.x - b.x, a.y - b.y));
  return zoom(view, distance(now, rest) / distance(before, rest), rest.x, rest.y);
}

function ZoomButtons({
  onZoom,
  onFit,
}: {
  onZoom: (factor: number) => void;
  onFit: () => void;
}) {
  return (
    <div class="zoom-buttons" role="group" aria-label="Zoom">
      <button
        type="button"
        aria-label="Zoom in"
        title="Zoom in (+)"
        onClick={() => onZoom(1.3)}
      >
        +
      </button>
      <button
        type="button"
        aria-label="Zoom out"
        title="Zoom out (−)"
        onClick={() => onZoom(1 / 1.3)}
      >
        −
      </button>
      <button type="button" title="Show the whole graph (0)" onClick={onFit}>
        Fit
      </button>
    </div>
  );
}
