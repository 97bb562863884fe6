/** Saves a text or an image as a file of the visitor's. */
export function download(name: string, content: Blob | string, type = "text/csv") {
  const blob = typeof content === "string" ? new Blob([content], { type }) : content;
  const url = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = url;
  link.download = name.replace(/[^\p{L}\p{N}._-]+/gu, "-");
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** Saves a drawing with a title above it and the names of its lines below. */
export function downloadPng(
  name: string,
  drawing: HTMLCanvasElement,
  legend: readonly { name: string; colour: string }[],
  ink: string,
  background: string,
) {
  const scale = devicePixelRatio || 1;
  const line = 22 * scale;
  const canvas = document.createElement("canvas");
  canvas.width = drawing.width;
  canvas.height = drawing.height + 2 * line;
  const context = canvas.getContext("2d");
  if (!context) return;
  context.fillStyle = background;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(drawing, 0, line);
  context.textBaseline = "middle";
  context.fillStyle = ink;
  context.font = `600 ${13 * scale}px system-ui, sans-serif`;
  context.fillText(name, 8 * scale, line / 2);
  context.font = `${12 * scale}px system-ui, sans-serif`;
  let left = 8 * scale;
  for (const each of legend) {
    const middle = canvas.height - line / 2;
    context.fillStyle = each.colour;
    context.fillRect(left, middle - 4 * scale, 8 * scale, 8 * scale);
    context.fillStyle = ink;
    context.fillText(each.name, left + 12 * scale, middle);
    left += context.measureText(each.name).width + 28 * scale;
  }
  canvas.toBlob((blob) => blob && download(`${name}.png`, blob));
}
