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
