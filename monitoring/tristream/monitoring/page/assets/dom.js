// Making elements. Text is always set as text, never as HTML, because models write much of it.
"use strict";

const Dom = {
  /** A new element; attributes `class`, `on...` handlers and others; children are nodes or text. */
  el(tag, attributes = {}, ...children) {
    return Dom.fill(document.createElement(tag), attributes, children);
  },

  svg(tag, attributes = {}, ...children) {
    return Dom.fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
  },

  fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (name === "style") Object.assign(node.style, value);
      else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
    }
    node.append(...children.flat(2).filter((child) => child !== null && child !== undefined));
    return node;
  },

  byId(id) {
    return document.getElementById(id);
  },

  /** Put children into a node instead of what it holds. */
  show(node, ...children) {
    node.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
  },

  empty(words) {
    return Dom.el("p", { class: "empty" }, words);
  },

  /** A table: columns are `[title, class]`, rows are lists of nodes or text. */
  table(columns, rows) {
    const kind = (index) => columns[index][1];
    const head = columns.map(([title], index) => Dom.el("th", { class: kind(index), scope: "col" }, title));
    const body = rows.map((row) =>
      Dom.el(
        "tr",
        {},
        row.map((cell, index) => Dom.el("td", { class: kind(index) }, cell)),
      ),
    );
    return Dom.el(
      "div",
      { class: "scroll" },
      Dom.el("table", {}, Dom.el("thead", {}, Dom.el("tr", {}, head)), Dom.el("tbody", {}, body)),
    );
  },
};
