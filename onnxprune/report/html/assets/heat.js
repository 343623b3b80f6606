// The heat-map: another measure, another order, and what a cell says.
for (const { bar, table, control, rows } of toolbars) {
  if (!table.classList.contains("heat-map")) continue;
  const data = JSON.parse(bar.parentElement.querySelector(`[id="${table.id}"]`).closest(".scroll").nextElementSibling.textContent);
  const cells = rows.map((row) => [...row.querySelectorAll(".heat")]);
  const measure = () => (control("measure") ? control("measure").value : data.first);
  const label = () => (control("measure") ? control("measure").selectedOptions[0].textContent : measure());
  const written = (value) => {
    if (value === null) return "";
    const text = data.fraction && measure() === "drop" ? (value * 100).toFixed(1) : `${+value.toPrecision(3)}`;
    return /^-0(\.0)?$/.test(text) ? text.slice(1) : text;
  };
  const paint = () => {
    const grid = data.grid[measure()];
    const top = Math.max(0, ...grid.flat().filter((value) => value !== null));
    cells.forEach((line, k) => line.forEach((cell, j) => {
      const value = grid[k][j];
      const warm = value === null || !top ? 0 : Math.sqrt(Math.min(Math.max(value, 0) / top, 1));
      cell.textContent = written(value);
      cell.style.setProperty("--heat", warm.toFixed(3));
      cell.classList.toggle("hot", warm > 0.65);
    }));
  };
  const worst = (k) => data.grid[measure()][k].reduce((sum, value) => sum + (value ?? 0), 0);
  const sort = () => {
    const order = control("order").value;
    const places = rows.map((_, k) => k);
    if (order !== "network") places.sort((a, b) => (order === "most" ? worst(b) - worst(a) : worst(a) - worst(b)) || a - b);
    table.tBodies[0].append(...places.map((k) => rows[k]));
  };
  cells.forEach((line, k) => line.forEach((cell, j) => {
    says.set(cell.parentElement, () => {
      const value = data.grid[measure()][k][j];
      const unit = data.fraction && measure() === "drop" ? " points" : "";
      const what = value === null ? "not measured" : `${label()}: ${written(value)}${unit}`;
      return `${rows[k].dataset.name}\n${+(data.ratios[j] * 100).toPrecision(3)} % removed\n${what}`;
    });
  }));
  if (control("measure")) control("measure").addEventListener("input", () => { paint(); sort(); });
  control("order").addEventListener("input", sort);
}
