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
document.addEventListener("focusout", hideTip);
document.addEventListener("scroll", hideTip, { passive: true, capture: true });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
