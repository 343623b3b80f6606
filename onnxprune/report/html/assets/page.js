"use strict";
(() => {
// Light or dark: as the system has it until the reader says otherwise.
document.documentElement.classList.add("scripted");
{
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const key = "onnxprune-theme";
  const kept = () => { try { return localStorage.getItem(key); } catch { return null; } };
  const keep = (theme) => { try { localStorage.setItem(key, theme); } catch { /* no storage for files */ } };
  const now = () => root.dataset.theme || (system.matches ? "dark" : "light");
  const label = () => { button.textContent = now() === "dark" ? "Light" : "Dark"; button.title = `Switch to ${button.textContent.toLowerCase()}`; };
  if (kept() === "dark" || kept() === "light") root.dataset.theme = kept();
  button.addEventListener("click", () => {
    root.dataset.theme = now() === "dark" ? "light" : "dark";
    keep(root.dataset.theme);
    label();
  });
  system.addEventListener("change", label);
  label();
}

// Elements.
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

// One tooltip for the page. What has a `says` gets it on hover, focus and touch.
const tip = node("div", { id: "tip", role: "tooltip", hidden: "" });
document.body.append(tip);
const says = new WeakMap();
const showTip = (text, x, y) => {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, x + 14), innerWidth - box.width - 8);
  const top = y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 18;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${Math.max(8, top)}px`;
};
const hideTip = () => { tip.hidden = true; };
const said = (target) => {
  for (let each = target; each && each !== document; each = each.parentNode) {
    if (says.has(each)) return [each, says.get(each)()];
  }
  return [null, ""];
};
for (const name of ["pointermove", "pointerdown"]) { // a finger does not hover
  document.addEventListener(name, (event) => {
    const [, text] = said(event.target);
    if (text) showTip(text, event.clientX, event.clientY); else hideTip();
  });
}
document.addEventListener("focusin", (event) => {
  const [found, text] = said(event.target);
  if (!text) return hideTip();
  const box = found.getBoundingClientRect();
  showTip(text, box.left + box.width / 2, box.top + box.height / 2);
});
for (const title of document.querySelectorAll("svg title")) { // what a mark says where there are no scripts
  const [mark, text] = [title.parentNode, title.textContent];
  mark.setAttribute("aria-label", text);
  says.set(mark, () => text);
  title.remove();
}
document.addEventListener("focusout", hideTip);
document.addEventListener("scroll", hideTip, { passive: true, capture: true });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });

// What lies at a share of runs: a bar that follows the pointer and the arrow keys.
for (const figure of document.querySelectorAll("figure[data-chart=ecdf]")) {
  const { box: [left, top, width, height], says: texts } = JSON.parse(figure.querySelector("script").textContent);
  const svg = figure.querySelector(".plot > svg");
  const bar = element("line", { x1: left, x2: left + width, style: "stroke:var(--soft)", visibility: "hidden" });
  const pad = element("rect", { x: left, y: top, width, height, fill: "transparent", tabindex: "0", role: "slider", "aria-label": "share of runs", "aria-valuemin": 0, "aria-valuemax": 100 });
  let at = 50;
  const move = (value) => {
    at = Math.min(100, Math.max(0, Math.round(value)));
    for (const end of ["y1", "y2"]) bar.setAttribute(end, top + height * (1 - at / 100));
    bar.setAttribute("visibility", "visible");
    pad.setAttribute("aria-valuenow", at);
    pad.setAttribute("aria-valuetext", texts[at]);
  };
  pad.addEventListener("pointermove", (event) => {
    const place = pad.getBoundingClientRect();
    move(100 * (place.bottom - event.clientY) / place.height);
  });
  pad.addEventListener("pointerleave", () => bar.setAttribute("visibility", "hidden"));
  pad.addEventListener("focus", () => move(at));
  pad.addEventListener("keydown", (event) => {
    const step = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    move(at + step);
    const place = pad.getBoundingClientRect();
    showTip(texts[at], place.left + place.width / 2, place.top + place.height * (1 - at / 100));
  });
  says.set(pad, () => texts[at]);
  move(at);
  bar.setAttribute("visibility", "hidden");
  svg.append(bar, pad);
}

// Rows of a table by name, kind and order.
const toolbars = [...document.querySelectorAll(".tools")].map((bar) => {
  const table = document.getElementById(bar.dataset.table);
  const control = (name) => bar.querySelector(`[data-filter="${name}"]`);
  const rows = [...table.tBodies[0].rows];
  const count = () => {
    const left = rows.filter((row) => !row.hidden).length;
    bar.querySelector("output").textContent = left === rows.length ? "" : `${left} of ${rows.length}`;
  };
  const filter = () => {
    const name = control("name").value.trim().toLowerCase();
    const kind = control("kind") ? control("kind").value : "";
    for (const row of rows) {
      row.hidden = !((!name || row.dataset.name.toLowerCase().includes(name)) && (!kind || row.dataset.kind === kind));
    }
    count();
  };
  for (const name of ["name", "kind"]) if (control(name)) control(name).addEventListener("input", filter);
  return { bar, table, control, rows };
});

// The heat-map: another measure, another order, and what a cell says.
for (const { bar, table, control, rows } of toolbars) {
  if (!table.classList.contains("heat-map")) continue;
  const data = JSON.parse(table.closest(".scroll").nextElementSibling.textContent);
  const cells = rows.map((row) => [...row.cells].slice(2, 2 + data.removed.length));
  const measure = () => (control("measure") ? control("measure").value : data.first);
  const entry = (k, j) => data.grid[measure()][k][j]; // text, and warmth where something was measured
  const paint = () => cells.forEach((line, k) => line.forEach((cell, j) => {
    const [text, warm] = entry(k, j);
    cell.replaceChildren(warm === undefined ? text : node("span", { class: warm > 0.65 ? "heat hot" : "heat", style: `--heat:${warm}` }, text));
  }));
  const worst = (k) => data.grid[measure()][k].reduce((sum, [, warm]) => sum + (warm ?? 0) ** 2, 0);
  const sort = () => {
    const order = control("order").value;
    const places = rows.map((_, k) => k);
    if (order !== "network") places.sort((a, b) => (order === "most" ? worst(b) - worst(a) : worst(a) - worst(b)) || a - b);
    table.tBodies[0].append(...places.map((k) => rows[k]));
  };
  cells.forEach((line, k) => line.forEach((cell, j) => {
    says.set(cell, () => {
      const [text, warm] = entry(k, j);
      const what = warm === undefined ? "not measured" : `${data.labels[measure()]}: ${text}`;
      return `${rows[k].dataset.name}\n${data.removed[j]} removed\n${what}`;
    });
  }));
  if (control("measure")) control("measure").addEventListener("input", () => { paint(); sort(); });
  control("order").addEventListener("input", sort);
}

// One group at a time: its tensors by what they do with a unit, each with the part that leaves.
for (const box of document.querySelectorAll(".couplings")) {
  const groups = [...box.querySelectorAll("details[data-group]")];
  if (!groups.length) continue;

  // A tensor as a sheet of its first two axes; a strip shows where it is cut.
  const glyph = (cut, rank) => {
    const svg = element("svg", { viewBox: "0 0 40 40", "aria-hidden": "true" });
    if (rank < 2) {
      svg.append(element("rect", { class: "box", x: 15, y: 3, width: 9, height: 34 }), element("rect", { class: "cut", x: 15, y: 15, width: 9, height: 6 }));
      return svg;
    }
    if (rank > 2) svg.append(element("path", { class: "box", d: "M3,9L9,3H37V31L31,37" }), element("path", { class: "box", d: "M31,9L37,3", fill: "none" }));
    svg.append(element("rect", { class: "box", x: 3, y: 9, width: 28, height: 28 }));
    if (cut === 0) svg.append(element("rect", { class: "cut", x: 3, y: 19, width: 28, height: 6 }));
    else if (cut === 1) svg.append(element("rect", { class: "cut", x: 14, y: 9, width: 6, height: 28 }));
    else svg.append(element("rect", { class: "cut", x: 5, y: 11, width: 24, height: 24, "fill-opacity": 0.25 }));
    return svg;
  };
  const card = (row) => {
    const [tensor, shape, loses, , nodes] = row.cells;
    const sizes = shape.textContent.split(" × ");
    const bold = shape.querySelector("b"); // the axis that is cut
    const before = bold && bold.previousSibling ? bold.previousSibling.textContent : "";
    const axis = before.split("×").length - 1;
    const text = node("div", {}, tensor.querySelector("code").cloneNode(true), node("br"), `${loses.textContent} of axis ${axis}, ${sizes.join(" × ")}`, node("br"));
    text.append(...[...nodes.childNodes].map((each) => each.cloneNode(true)));
    return node("div", { class: "card" }, glyph(axis, sizes.length), text);
  };
  const draw = (group) => {
    const rows = [...group.querySelectorAll("tbody tr")];
    const flow = node("div", { class: "flow" });
    for (const [role, title] of [["makes it", "Made by"], ["scales it", "Scaled by"], ["reads it", "Read by"]]) {
      const own = rows.filter((row) => row.cells[3].textContent === role);
      flow.append(node("div", { tabindex: "0", role: "group", "aria-label": title }, node("h5", {}, `${title} (${own.length})`), ...own.map(card)));
    }
    const table = group.querySelector(".scroll");
    if (table) { table.before(flow); table.hidden = true; }
  };
  const choose = node("select", { "aria-label": "Group" }, ...groups.map((group) => node("option", { value: group.id }, group.dataset.group)));
  const show = (id) => {
    for (const group of groups) {
      const own = group.id === id;
      group.classList.toggle("shown", own);
      group.open = own;
      if (own && !group.querySelector(".flow")) draw(group);
    }
    choose.value = id;
  };
  choose.addEventListener("input", () => show(choose.value));
  box.before(node("div", { class: "chooser" }, node("label", {}, "Group ", choose)));
  const follow = () => {
    const id = location.hash.slice(1);
    if (groups.some((group) => group.id === id)) { show(id); box.closest("section").scrollIntoView(); }
  };
  addEventListener("hashchange", follow);
  show(groups[0].id);
  follow();
}

// Commands to the clipboard.
for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const text = button.parentElement.querySelector("code").textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(button.parentElement.querySelector("code"));
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}
})();
