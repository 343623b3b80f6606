// What models cost against how good they are.
{
  const SHAPES = {
    dense: "M-5,-5h10v10h-10z",
    chosen: "M0,-7L7,0L0,7L-7,0z",
    other: "M-4,3.5H4L0,-4z",
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
    const most = unit === "fraction" ? Math.max(1, high) : Infinity; // ticks and most of the room end there
    return { low: low - room, high: Math.min(high + room, most + room / 3), most };
  };

  const frontPath = (marks, place) => {
    const on = marks.filter((mark) => mark.front);
    return on.map((mark, k) => {
      const [x, y] = [place.across(mark.x), place.up(mark.y)];
      return k ? `H${x}V${y}` : `M${x},${y}`;
    }).join("");
  };

  // Where a name goes: the first of four places around its mark that nothing else takes.
  const name = (mark, place, taken) => {
    const x = place.across(mark.x), y = place.up(mark.y), width = 6.6 * mark.label.length;
    const boxes = [[-width / 2, -12], [-width / 2, 22], [11, 4], [-11 - width, 4]].map(([a, b]) => ({
      x: b === 4 ? x + a : Math.min(Math.max(x + a, place.left), place.right + 10 - width), y: y + b, width,
    }));
    const inside = (box) => box.x >= place.left && box.x + width <= place.right + 12 && box.y > place.top - 6;
    const free = (box) => taken.every((other) => box.x > other.x + other.width || other.x > box.x + width || Math.abs(box.y - other.y) > 12);
    const box = boxes.find((each) => inside(each) && free(each));
    if (!box) return [];
    taken.push(box);
    return [element("text", { class: "name", x: box.x, y: box.y }, mark.label)];
  };

  const point = (mark, data, place, taken) => {
    const x = place.across(mark.x), y = place.up(mark.y);
    const group = element("g", { class: mark.role, tabindex: "0", role: "img" });
    const interval = mark.low === undefined ? "" : ` (${shown(mark.low, data.x.unit)} to ${shown(mark.high, data.x.unit)})`;
    const error = mark.error === undefined ? "" : ` ± ${shown(mark.error, data.y.unit)}`;
    const text = `${mark.label}, ${mark.what}\n${data.x.label}: ${shown(mark.x, data.x.unit)}${interval}\n${data.y.label}: ${shown(mark.y, data.y.unit)}${error}`;
    group.setAttribute("aria-label", text);
    says.set(group, () => text);
    if (mark.low !== undefined) {
      const [a, b] = [place.across(mark.low), place.across(mark.high)];
      const cap = b <= place.right ? `M${b},${y - 4}v8` : ""; // one that leaves the chart has no end there
      group.append(element("path", { class: "whisker", d: `M${a},${y - 4}v8M${a},${y}H${Math.min(b, place.right)}${cap}`, fill: "none" }));
    }
    if (mark.error !== undefined) {
      const [a, b] = ends(mark, data.y.unit).map(place.up);
      group.append(element("path", { class: "whisker", d: `M${x - 4},${a}h8M${x},${a}V${b}M${x - 4},${b}h8`, fill: "none" }));
    }
    const glyph = shape(mark.role);
    glyph.setAttribute("transform", `translate(${x},${y})`);
    group.append(element("circle", { cx: x, cy: y, r: 11, fill: "transparent" }), glyph);
    if (taken) group.append(...name(mark, place, taken));
    return group;
  };

  drawAll("pareto", (data, width) => {
    const furthest = Math.max(...data.marks.map((mark) => mark.x));
    const end = Math.max(...data.marks.map((mark) => mark.high || mark.x));
    const x = { ...data.x, low: 0, high: Math.min(end, furthest * 1.4) * 1.06 }; // no interval may press all else together
    const y = { ...data.y, ...extent(data.marks, data.y.unit) };
    const place = frame(width, Math.min(340, Math.max(230, width * 0.62)), x, y);
    place.svg.append(element("path", { class: "front", d: frontPath(data.marks, place) }));
    const order = ["missed", "tried", "other", "dense", "chosen"];
    const marks = [...data.marks].sort((a, b) => order.indexOf(a.role) - order.indexOf(b.role));
    const named = (mark) => mark.role === "dense" || mark.role === "chosen" || marks.length < 5;
    const taken = marks.map((mark) => ({ x: place.across(mark.x) - 6, y: place.up(mark.y) + 4, width: 12 }));
    place.svg.append(...marks.map((mark) => point(mark, data, place, named(mark) && mark.label.length < 40 ? taken : null)));
    place.svg.removeAttribute("aria-hidden");
    const roles = new Map(data.marks.map((mark) => [mark.role, mark.what]));
    const legend = node("ul", { class: "legend" });
    for (const [role, what] of roles) {
      legend.append(node("li", {}, element("svg", { viewBox: "-12 -8 24 16", "aria-hidden": "true" }, element("g", { class: role }, shape(role))), what));
    }
    return [place.svg, legend];
  });
}
