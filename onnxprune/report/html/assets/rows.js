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
