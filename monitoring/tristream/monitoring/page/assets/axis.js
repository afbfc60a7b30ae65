// The x axis that all curves share: step, wall time or trained tokens, and the steps that are zoomed to.
"use strict";

const AXIS_KINDS = { step: "step", time: "time since the start", tokens: "trained tokens" };
const NO_TABLE = { steps: [], seconds: [], tokens: [] };

const Axis = {
  kind: "step",
  /** What each step stands for in this run: `{steps, seconds, tokens}`, all rising. */
  table: NO_TABLE,
  /** First and last step that are shown, or null for all. */
  shown: null,
  listeners: [],

  onChange(listener) {
    Axis.listeners.push(listener);
  },

  setTable(table) {
    if (table) Axis.table = table;
  },

  setKind(kind) {
    Axis.kind = kind;
    Axis.tell();
  },

  /** Zoom every chart to a range of its axis; null shows all. */
  zoom(range) {
    const steps = range && range.map((x) => Axis.stepAt(x));
    const shown = steps && [Math.max(0, Math.floor(steps[0])), Math.max(1, Math.ceil(steps[1]))];
    if (JSON.stringify(shown) === JSON.stringify(Axis.shown)) return;
    Axis.shown = shown;
    Axis.tell();
  },

  tell() {
    for (const listener of Axis.listeners) listener();
  },

  /** Seconds of a unit in which people read the whole run. */
  unit() {
    if (Axis.kind !== "time") return [1, ""];
    const total = Axis.table.seconds.at(-1) ?? 0;
    return total > 10800 ? [3600, "h"] : total > 180 ? [60, "min"] : [1, "s"];
  },

  at(step, table = Axis.table) {
    if (Axis.kind === "step") return step;
    const values = Axis.kind === "time" ? table.seconds : table.tokens;
    return Axis.between(table.steps, values, step) / Axis.unit()[0];
  },

  stepAt(x) {
    if (Axis.kind === "step") return x;
    const values = Axis.kind === "time" ? Axis.table.seconds : Axis.table.tokens;
    return Axis.between(values, Axis.table.steps, x * Axis.unit()[0]);
  },

  /** Linear between known points, from 0 before the first. */
  between(known, values, wanted) {
    const next = Axis.firstAtLeast(known, wanted);
    if (!known.length) return wanted;
    if (next === known.length) return values.at(-1);
    const [left, right] = [next ? known[next - 1] : 0, known[next]];
    const [low, high] = [next ? values[next - 1] : 0, values[next]];
    return right > left ? low + ((wanted - left) / (right - left)) * (high - low) : high;
  },

  firstAtLeast(known, wanted) {
    let [low, high] = [0, known.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (known[middle] < wanted) low = middle + 1;
      else high = middle;
    }
    return low;
  },

  /** What a Plotly axis needs. */
  layout() {
    const range = Axis.shown ? { range: Axis.shown.map((step) => Axis.at(step)), autorange: false } : {};
    const titles = { step: "step %{x}", time: `%{x:.3~f} ${Axis.unit()[1]}`, tokens: "%{x:.3~s} tokens" };
    const format = { step: "d", time: "~g", tokens: ".3~s" }[Axis.kind];
    const suffix = Axis.kind === "time" ? ` ${Axis.unit()[1]}` : "";
    return { tickformat: format, ticksuffix: suffix, unifiedhovertitle: { text: titles[Axis.kind] }, ...range };
  },

  /** Choices of the axis, and a button that shows all steps again. */
  showControls(place) {
    const options = Object.entries(AXIS_KINDS).map(([kind, words]) => Dom.el("option", { value: kind }, `by ${words}`));
    const choose = (event) => Axis.setKind(event.currentTarget.value);
    const select = Dom.el(
      "select",
      { id: "axis-kind", "aria-label": "x axis of all curves", onchange: choose },
      options,
    );
    const all = Dom.el("button", { type: "button", id: "zoom-out", onclick: () => Axis.zoom(null) });
    const showAll = () => {
      all.hidden = !Axis.shown;
      if (Axis.shown) all.textContent = `steps ${Axis.shown.join(" to ")}: show all`;
    };
    showAll();
    Axis.onChange(showAll);
    Dom.show(place, select, all);
  },
};
