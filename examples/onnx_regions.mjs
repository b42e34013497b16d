// Names boxes of a photograph by the graphs of `anyregion export-onnx`, in Node (onnxruntime-node).
//
// node onnx_regions.mjs FOLDER PHOTO.ppm NAMES.json X0,Y0,X1,Y1 [X0,Y0,X1,Y1 ...]
//
// NAMES.json is {name: embedding of length 1}; docs/reference/onnx.md says how to write it. PPM, since Node
// reads no JPEG: `magick photo.jpg photo.ppm`. In a browser onnxruntime-web takes the same calls.
import fs from "node:fs";
import { createRequire } from "node:module";

const ort = createRequire(process.cwd() + "/")("onnxruntime-node"); // of where one stands
const [folder, photo, namesFile, ...words] = process.argv.slice(2);
const config = JSON.parse(fs.readFileSync(`${folder}/onnx.json`));
const names = Object.entries(JSON.parse(fs.readFileSync(namesFile)));
const boxes = words.map((word) => word.split(",").map(Number));
const bytes = fs.readFileSync(photo);
const header = bytes.toString("latin1", 0, 64).match(/^P6\s+(\d+)\s+(\d+)\s+255\s/);
const [width, height] = header.slice(1).map(Number);

const tensor = (data, dims) => new ort.Tensor("float32", Float32Array.from(data), dims);
const run = async (graph, feed) =>
  (await ort.InferenceSession.create(`${folder}/${graph}.onnx`)).run(feed);

// per output cell the input cells under a triangle, which is as wide as the image shrinks
function taps(from, to) {
  const scale = from / to, reach = Math.max(1, scale);
  return Array.from({ length: to }, (_, i) => {
    const middle = (i + 0.5) * scale, cells = [];
    for (let j = 0; j < from; j++) {
      const weight = 1 - Math.abs(j + 0.5 - middle) / reach;
      if (weight > 0) cells.push([j, weight]);
    }
    const sum = cells.reduce((total, [, weight]) => total + weight, 0);
    return cells.map(([j, weight]) => [j, weight / sum]);
  });
}

// the image at w x h in the upper left of a square, channel by channel; `finish` makes the numbers
function square(side, w, h, round, finish) {
  const out = new Float32Array(3 * side * side), columns = taps(width, w), rows = taps(height, h);
  for (let c = 0; c < 3; c++) {
    const source = (x, y) => bytes[header[0].length + 3 * (y * width + x) + c];
    const wide = Array.from({ length: height }, (_, y) =>
      columns.map((cells) => round(cells.reduce((sum, [x, f]) => sum + f * source(x, y), 0))));
    for (let y = 0; y < h; y++)
      for (let x = 0; x < w; x++) {
        const value = rows[y].reduce((sum, [from, f]) => sum + f * wide[from][x], 0);
        out[(c * side + y) * side + x] = finish(round(value), c);
      }
  }
  return tensor(out, [1, 3, side, side]);
}

// the localizer: the longer side becomes `side`, bytes again, zeros right and below
const side = config.side, scale = side / Math.max(width, height);
const [w, h] = [width, height].map((length) => Math.max(1, Math.floor(length * scale + 0.5)));
const { embedding } = await run("localizer_image", {
  pixels: square(side, w, h, Math.round,
    (value, c) => (value - config.localizer_mean[c]) / config.localizer_std[c]),
});
const points = boxes.flatMap(([x0, y0, x1, y1]) => [
  (x0 * w) / width, (y0 * h) / height, (x1 * w) / width, (y1 * h) / height]);
const labels = BigInt64Array.from(boxes.flatMap(() => [2n, 3n])); // a box is its corners
const { tokens } = await run("localizer_tokens", {
  embedding,
  points: tensor(points, [boxes.length, 2, 2]),
  labels: new ort.Tensor("int64", labels, [boxes.length, 2]),
});

// the vision-language model: the whole image squashed to a square, as floats
const size = config.image_size;
const { features } = await run("vlm_image", {
  pixels: square(size, size, size, (value) => value,
    (value, c) => (value / 255 - config.vlm_mean[c]) / config.vlm_std[c]),
});

// the head: the first of each region's four tokens, and the names
const channels = tokens.dims[2];
const first = boxes.flatMap((_, i) => [...tokens.data.slice(4 * i * channels, (4 * i + 1) * channels)]);
const matrix = names.flatMap(([, embedded]) => embedded);
const { logits } = await run("head", {
  tokens: tensor(first, [boxes.length, channels]),
  features,
  names: tensor(matrix, [names.length, matrix.length / names.length]),
});
boxes.forEach((box, i) => {
  const row = [...logits.data.slice(i * names.length, (i + 1) * names.length)];
  const name = names[row.indexOf(Math.max(...row))][0];
  console.log(JSON.stringify({ box, name, logits: row }));
});
