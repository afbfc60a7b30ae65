// What is shown as CSV: the points of a figure, the rows of a table.
"use strict";

const Export = {
  /** A small button that saves what `make` gives as `{name, rows}`. */
  button(make) {
    const save = () => {
      const { name, rows } = make();
      Export.save(name, Export.text(rows));
    };
    return Dom.el(
      "button",
      { type: "button", class: "export", title: "save what is shown as CSV", onclick: save },
      "CSV",
    );
  },

  /** One row a point; `low` and `high` are the range of the steps that a point stands for. */
  figure(name, series) {
    const head = ["step", "seconds", "tokens", "name", "value", "low", "high", "standard_error"];
    const rows = series.flatMap((one) =>
      one.x.map((step, index) => [
        step,
        Export.axis(one, "seconds", step),
        Export.axis(one, "tokens", step),
        one.name,
        one.y[index],
        one.low?.[index] ?? null,
        one.high?.[index] ?? null,
        one.error?.[index] ?? null,
      ]),
    );
    return { name, rows: [head, ...rows] };
  },

  axis({ axes }, column, step) {
    const table = axes ?? Axis.table;
    return table.steps.length ? Number(Axis.between(table.steps, table[column], step).toPrecision(8)) : null;
  },

  /** Text of the cells of a table element. */
  table(name, table) {
    const cells = (row) => [...row.children].map((cell) => cell.textContent.trim());
    return { name, rows: [...table.querySelectorAll("tr")].map(cells) };
  },

  text(rows) {
    const cell = (value) => {
      const text = value === null || value === undefined ? "" : String(value);
      return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return `${rows.map((row) => row.map(cell).join(",")).join("\r\n")}\r\n`;
  },

  save(name, text) {
    const address = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    Dom.el("a", { href: address, download: `${name.replaceAll(/[^\w.@-]+/g, "_")}.csv` }).click();
    window.setTimeout(() => URL.revokeObjectURL(address), 10000);
  },
};
