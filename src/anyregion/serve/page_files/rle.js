// COCO's compressed run lengths, column by column, drawn into a canvas of the mask's own size.

export function runsOf(counts) {
  if (Array.isArray(counts)) return counts;
  const runs = [];
  for (let at = 0; at < counts.length; ) {
    let value = 0;
    let shift = 0;
    let more = true;
    while (more) {
      const code = counts.charCodeAt(at++) - 48;
      value |= (code & 31) << shift;
      more = (code & 32) !== 0;
      shift += 5;
      if (!more && code & 16) value |= -1 << shift;
    }
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return runs;
}

export function paintMask({ size: [height, width], counts }, [red, green, blue], alpha) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const picture = context.createImageData(width, height);
  let at = 0;
  let inside = false;
  for (const run of runsOf(counts)) {
    if (inside) {
      for (let i = at; i < at + run; i++) {
        const pixel = 4 * ((i % height) * width + Math.floor(i / height));
        picture.data[pixel] = red;
        picture.data[pixel + 1] = green;
        picture.data[pixel + 2] = blue;
        picture.data[pixel + 3] = alpha;
      }
    }
    at += run;
    inside = !inside;
  }
  context.putImageData(picture, 0, 0);
  return canvas;
}
