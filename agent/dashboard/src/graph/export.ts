// Saves the drawing as SVG or PNG.
import { fit, type Scene } from "./scene";

// What the style sheet gives; a saved picture has none.
const PROPERTIES = [
  ...["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray"],
  ...["stroke-linejoin", "opacity", "font-family", "font-size", "font-weight"],
  ...["text-anchor", "paint-order", "display"],
];
const SVG = "http://www.w3.org/2000/svg";
// Twice the size on the screen is sharp in a document.
const PIXELS_PER_UNIT = 2;
// What browsers can still draw.
const MAX_PIXELS = 8000;

/** Returns the whole graph as a document of its own, without scripts and references. */
export function drawDocument(svg: SVGSVGElement, scene: Scene): string {
  const copy = svg.cloneNode(true) as SVGSVGElement;
  copyStyles(svg, copy);
  copy.setAttribute("xmlns", SVG);
  copy.setAttribute("width", String(Math.ceil(scene.width)));
  copy.setAttribute("height", String(Math.ceil(scene.height)));
  copy.firstElementChild?.removeAttribute("transform");
  const background = document.createElementNS(SVG, "rect");
  background.setAttribute("width", "100%");
  background.setAttribute("height", "100%");
  background.setAttribute("fill", getComputedStyle(document.body).backgroundColor);
  copy.prepend(background);
  return new XMLSerializer().serializeToString(copy);
}

function copyStyles(from: Element, to: Element): void {
  const style = getComputedStyle(from);
  for (const name of PROPERTIES) {
    const value = style.getPropertyValue(name);
    if (value && value !== "normal") to.setAttribute(name, value);
  }
  for (const { name } of [...to.attributes]) {
    if (/^(class|role|tabindex|data-|aria-)/.test(name)) to.removeAttribute(name);
  }
  [...from.children].forEach((child, index) => copyStyles(child, to.children[index]!));
}

/** Returns the drawing as a picture. */
export async function drawPicture(svg: SVGSVGElement, scene: Scene): Promise<Blob> {
  const text = drawDocument(svg, scene);
  const size = [scene.width, scene.height].map((side) => side * PIXELS_PER_UNIT);
  const { scale } = fit(
    { width: size[0]!, height: size[1]! },
    Math.min(size[0]!, MAX_PIXELS),
    Math.min(size[1]!, MAX_PIXELS),
  );
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = Math.ceil(size[0]! * Math.min(1, scale));
  canvas.height = Math.ceil(size[1]! * Math.min(1, scale));
  canvas.getContext("2d")!.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve, reject) =>
    canvas.toBlob((blob) =>
      blob ? resolve(blob) : reject(new Error("The browser cannot draw the picture.")),
    ),
  );
}
