// Which share of runs took at most that long: one line per model, told apart by colour and dashes.
{
  const LOOKS = [
    ["var(--ink)", ""], ["var(--accent)", "6 3"], ["var(--other)", "2 3"], ["#009e73", "9 3 2 3"], ["#cc79a7", "12 4"], ["#8a6d00", "4 4"],
  ];
  const look = (k) => {
    const [colour, dashes] = LOOKS[k % LOOKS.length];
    return { fill: "none", style: `stroke:${colour}`, "stroke-width": 2, "stroke-dasharray": dashes, "stroke-linejoin": "round" };
  };
  const at = (quantiles, share) => quantiles[Math.round(share * (quantiles.length - 1))];

  drawAll("ecdf", (data, width) => {
    // A few stray runs would press everything else against the axis: the tail past 99 % is cut.
    const low = Math.min(...data.lines.map((line) => line.quantiles[0]));
    const high = Math.max(...data.lines.map((line) => at(line.quantiles, 0.99)));
    const log = low > 0 && high > 5 * low; // or all but the tail would be one steep line
    const room = (high - low) * 0.05 || high * 0.05;
    const x = log
      ? { label: "latency up to the 99th percentile, logarithmic", unit: "seconds", log, low: low / 1.1, high: high * 1.1 }
      : { label: "latency up to the 99th percentile", unit: "seconds", low: Math.max(0, low - room), high: high + room };
    const y = { label: "share of runs", unit: "fraction", low: 0, high: 1 };
    const place = frame(width, Math.min(320, Math.max(220, width * 0.55)), x, y);
    data.lines.forEach((line, k) => {
      const inside = line.quantiles.filter((value) => value <= x.high);
      const steps = inside.map((value, q) => `${q ? "L" : "M"}${place.across(value)},${place.up(q / (line.quantiles.length - 1))}`);
      place.svg.append(element("path", { ...look(k), d: steps.join("") }));
    });

    const cursor = element("line", { class: "grid", x1: place.left, x2: place.right, style: "stroke:var(--soft)", visibility: "hidden" });
    const text = (share) => {
      const first = at(data.lines[0].quantiles, share);
      const lines = data.lines.map((line, k) => {
        const value = at(line.quantiles, share);
        return `${line.label}: ${shown(value, "seconds")}${k ? ` (${(value / first).toFixed(2)}×)` : ""}`;
      });
      return [`${Math.round(share * 100)} % of runs within`, ...lines].join("\n");
    };
    const pad = element("rect", { x: place.left, y: place.top, width: place.right - place.left, height: place.bottom - place.top, fill: "transparent", tabindex: "0", role: "slider", "aria-label": "share of runs", "aria-valuemin": 0, "aria-valuemax": 100 });
    let share = 0.5;
    const move = (value) => {
      share = Math.min(1, Math.max(0, value));
      for (const end of ["y1", "y2"]) cursor.setAttribute(end, place.up(share));
      cursor.setAttribute("visibility", "visible");
      pad.setAttribute("aria-valuenow", Math.round(share * 100));
      pad.setAttribute("aria-valuetext", text(share));
    };
    pad.addEventListener("pointermove", (event) => {
      const box = place.svg.getBoundingClientRect();
      const inside = ((event.clientY - box.top) / box.height) * place.svg.viewBox.baseVal.height;
      move((place.bottom - inside) / (place.bottom - place.top));
    });
    pad.addEventListener("pointerleave", () => cursor.setAttribute("visibility", "hidden"));
    pad.addEventListener("focus", () => move(share));
    pad.addEventListener("keydown", (event) => {
      const step = { ArrowUp: 0.01, ArrowRight: 0.01, ArrowDown: -0.01, ArrowLeft: -0.01, PageUp: 0.1, PageDown: -0.1 }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      move(share + step);
      const box = pad.getBoundingClientRect();
      showTip(text(share), box.left + box.width / 2, box.top + box.height * (1 - share));
    });
    says.set(pad, () => text(share));
    move(share);
    cursor.setAttribute("visibility", "hidden");
    place.svg.append(cursor, pad);
    place.svg.removeAttribute("aria-hidden");
    const legend = node("ul", { class: "legend" });
    data.lines.forEach((line, k) => {
      const stroke = element("path", { ...look(k), d: "M0,6H24" });
      legend.append(node("li", {}, element("svg", { viewBox: "0 0 24 12", "aria-hidden": "true" }, stroke), line.label));
    });
    return [place.svg, legend];
  });
}
