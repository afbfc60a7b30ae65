// Colours of the style sheet for what is drawn by script; each source keeps one colour everywhere.
"use strict";

const NUM_COLORS = 8;

const Theme = {
  sources: [],

  color(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  },

  nth(index) {
    return Theme.color(`source-${index % NUM_COLORS}`);
  },

  /** The colour of a source as a CSS value that follows light and dark. */
  sourceVariable(source) {
    return `var(--source-${Math.max(0, Theme.sources.indexOf(source)) % NUM_COLORS})`;
  },

  sourceColor(source) {
    return Theme.nth(Math.max(0, Theme.sources.indexOf(source)));
  },

  sourceName(source) {
    const dot = Dom.el("span", { class: "dot", style: { background: Theme.sourceVariable(source) } });
    return Dom.el("span", { class: "source" }, dot, source);
  },

  onChange(handler) {
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", handler);
  },
};
