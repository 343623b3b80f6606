// What models cost against how good they are.
{
  const SHAPES = {
    dense: "M-5,-5h10v10h-10z",
    chosen: "M0,-7L7,0L0,7L-7,0z",
    tried: "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
    missed: "M-4,-4L4,4M4,-4L-4,4",
  };
  const shape = (role) => element("path", { class: "mark", d: SHAPES[role] });

  // Where the interval of a value ends; a part of a whole ends where the whole does.
  const ends = (mark, unit) => {
    const [low, high] = [mark.y - (mark.error || 0), mark.y + (mark.error || 0)];
    return unit === "fraction" ? [Math.max(low, Math.min(mark.y, 0)), Math.min(high, Math.max(mark.y, 1))] : [low, high];
  };

  const extent = (marks, unit) => {
    const values = marks.flatMap((mark) => ends(mark, unit));
    const low = Math.min(...values), high = Math.max(...values);
    const room = Math.max((high - low) * 0.12, Math.abs(high) * 0.005, 1e-9);
    return { low: low - room, high: high + room, most: unit === "fraction" ? Math.max(1, high) : Infinity };
  };

  const frontPath = (marks, place) => {
    const on = marks.filter((mark) => mark.front);
    return on.map((mark, k) => {
      const [x, y] = [place.across(mark.x), place.up(mark.y)];
      return k ? `H${x}V${y}` : `M${x},${y}`;
    }).join("");
  };

  const point = (mark, data, place, named) => {
    const x = place.across(mark.x), y = place.up(mark.y);
    const group = element("g", { class: mark.role, tabindex: "0", role: "img" });
    const interval = mark.low === undefined ? "" : ` (${shown(mark.low, data.x.unit)} to ${shown(mark.high, data.x.unit)})`;
    const error = mark.error === undefined ? "" : ` ± ${shown(mark.error, data.y.unit)}`;
    const text = `${mark.label}, ${mark.what}\n${data.x.label}: ${shown(mark.x, data.x.unit)}${interval}\n${data.y.label}: ${shown(mark.y, data.y.unit)}${error}`;
    group.setAttribute("aria-label", text);
    says.set(group, () => text);
    if (mark.low !== undefined) {
      const [a, b] = [place.across(mark.low), place.across(mark.high)];
      group.append(element("path", { class: "whisker", d: `M${a},${y - 4}v8M${a},${y}H${b}M${b},${y - 4}v8`, fill: "none" }));
    }
    if (mark.error !== undefined) {
      const [a, b] = ends(mark, data.y.unit).map(place.up);
      group.append(element("path", { class: "whisker", d: `M${x - 4},${a}h8M${x},${a}V${b}M${x - 4},${b}h8`, fill: "none" }));
    }
    const glyph = shape(mark.role);
    glyph.setAttribute("transform", `translate(${x},${y})`);
    group.append(element("circle", { cx: x, cy: y, r: 11, fill: "transparent" }), glyph);
    if (named) {
      const end = x > (place.left + place.right) / 2;
      const below = mark.role === "dense" || y < place.top + 14; // the original away from the others
      group.append(element("text", { class: "name", x: x + (end ? -10 : 10), y: y + (below ? 20 : -9), "text-anchor": end ? "end" : "start" }, mark.label));
    }
    return group;
  };

  drawAll("pareto", (data, width) => {
    const x = { ...data.x, low: 0, high: Math.max(...data.marks.map((mark) => mark.high || mark.x)) * 1.06 };
    const y = { ...data.y, ...extent(data.marks, data.y.unit) };
    const place = frame(width, Math.min(340, Math.max(230, width * 0.62)), x, y);
    place.svg.append(element("path", { class: "front", d: frontPath(data.marks, place) }));
    const order = ["missed", "tried", "dense", "chosen"];
    const marks = [...data.marks].sort((a, b) => order.indexOf(a.role) - order.indexOf(b.role));
    const named = (mark) => mark.role === "dense" || mark.role === "chosen" || marks.length < 5;
    place.svg.append(...marks.map((mark) => point(mark, data, place, named(mark) && mark.label.length < 40)));
    place.svg.removeAttribute("aria-hidden");
    const roles = new Map(data.marks.map((mark) => [mark.role, mark.what]));
    const legend = node("ul", { class: "legend" });
    for (const [role, what] of roles) {
      legend.append(node("li", {}, element("svg", { viewBox: "-12 -8 24 16", "aria-hidden": "true" }, element("g", { class: role }, shape(role))), what));
    }
    return [place.svg, legend];
  });
}
