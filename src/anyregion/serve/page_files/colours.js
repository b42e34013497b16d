// A colour a word: hues that lie far apart whatever the number of words, each with ink that can be read on it.

export function colourOf(words, word) {
  if (word === null || word === undefined) return { css: "rgb(130 138 148)", rgb: [130, 138, 148], ink: "#fff" };
  const at = Math.max(0, words.indexOf(word));
  const hue = (at * 137.508) % 360; // the golden angle
  const light = [0.62, 0.48, 0.74][at % 3];
  const rgb = fromHsl(hue, 0.72, light);
  const [r, g, b] = rgb.map((v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  const luminance = 0.2126 * r + 0.7152 * g + 0.0722 * b;
  return { css: `rgb(${rgb.join(" ")})`, rgb, ink: luminance > 0.18 ? "#000" : "#fff" };
}

function fromHsl(hue, saturation, light) {
  const chroma = saturation * Math.min(light, 1 - light);
  return [0, 8, 4].map((n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (light - chroma * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  });
}
