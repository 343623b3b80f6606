// SVG elements, axes and numbers, as all charts use them.
const element = (name, attributes = {}, ...children) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};
const node = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};

const scaled = (value, base, suffixes) => {
  let step = 0;
  while (Math.abs(value) >= base && step < suffixes.length - 1) { value /= base; step += 1; }
  return `${+value.toPrecision(3)}${suffixes[step]}`;
};
const shown = (value, unit) => {
  if (value === null || value === undefined) return "-";
  switch (unit) {
    case "count": return scaled(value, 1000, ["", " k", " M", " G", " T", " P"]);
    case "bytes": return scaled(value, 1024, [" B", " KiB", " MiB", " GiB", " TiB"]);
    case "fraction": return `${+(value * 100).toFixed(2)} %`;
    case "seconds": return value < 1e-3 ? `${+(value * 1e6).toPrecision(3)} µs` : value < 1 ? `${+(value * 1e3).toPrecision(3)} ms` : `${+value.toPrecision(3)} s`;
    default: return `${+value.toPrecision(4)}`;
  }
};

// Round numbers from low to high, about `count` of them; in units that are round when read.
const ticks = (low, high, count, unit) => {
  const base = unit === "bytes" ? 1024 ** Math.floor(Math.log(Math.max(high, 1)) / Math.log(1024)) : 1;
  const rough = (high - low) / base / count;
  if (!(rough > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= rough * 0.999) * base;
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high * (1 + 1e-12) + step * 1e-9; k += 1) found.push(k * step);
  return found;
};

// 1, 2 and 5 of every power of ten from low to high.
const logTicks = (low, high) => {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
    for (const first of [1, 2, 5]) found.push(first * 10 ** power);
  }
  return found.filter((value) => value >= low && value <= high);
};

// A frame with axes: where values lie, and the group to draw into.
const frame = (width, height, x, y) => {
  const margin = { left: 54, right: 14, top: 22, bottom: 40 };
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" });
  const right = width - margin.right, bottom = height - margin.bottom;
  const along = x.log ? Math.log : (value) => value;
  const span = along(x.high) - along(x.low) || 1;
  const across = (value) => margin.left + ((along(value) - along(x.low)) / span) * (right - margin.left);
  const up = (value) => bottom - ((value - y.low) / (y.high - y.low || 1)) * (bottom - margin.top);
  for (const value of ticks(y.low, Math.min(y.high, y.most ?? y.high), 5, y.unit)) {
    svg.append(element("line", { class: "grid", x1: margin.left, x2: right, y1: up(value), y2: up(value) }));
    svg.append(element("text", { x: margin.left - 8, y: up(value) + 4, "text-anchor": "end" }, shown(value, y.unit)));
  }
  const steps = x.log ? logTicks(x.low, x.high) : ticks(x.low, x.high, Math.max(2, Math.floor(width / 110)), x.unit);
  let last = -Infinity;
  for (const value of steps) {
    if (across(value) - last < 46) continue; // their labels would overlap
    last = across(value);
    svg.append(element("line", { class: "grid", x1: across(value), x2: across(value), y1: bottom, y2: bottom + 4 }));
    svg.append(element("text", { x: across(value), y: bottom + 17, "text-anchor": "middle" }, shown(value, x.unit)));
  }
  svg.append(element("text", { x: right, y: height - 4, "text-anchor": "end" }, x.label));
  svg.append(element("text", { x: margin.left - 46, y: 10 }, y.label));
  return { svg, across, up, left: margin.left, right, top: margin.top, bottom };
};

// Draw every chart of a kind, and again whenever its width changes.
const drawAll = (kind, draw) => {
  for (const figure of document.querySelectorAll(`figure[data-chart="${kind}"]`)) {
    const data = JSON.parse(figure.querySelector("script").textContent);
    const plot = figure.querySelector(".plot");
    plot.setAttribute("role", "group"); // of marks that each say what they are, no picture any more
    let width = 0;
    const again = () => {
      const found = Math.floor(plot.clientWidth);
      if (found && found !== width) { width = found; plot.replaceChildren(...draw(data, width)); }
    };
    new ResizeObserver(again).observe(plot);
    again();
  }
};
