// Numbers, durations and counts in words that people read.
"use strict";

const NOTHING = "–";

const Format = {
  fixed(value, digits = 3) {
    return value === null || value === undefined ? NOTHING : value.toFixed(digits);
  },

  /** Three significant digits, such as 0.0123, 45.6 or 1.2e-7. */
  short(value) {
    if (value === null || value === undefined) return NOTHING;
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size < 1e-4) return value.toExponential(1);
    return size >= 1000 ? Format.count(value) : String(Number(value.toPrecision(3)));
  },

  count(value) {
    if (value === null || value === undefined) return NOTHING;
    if (value < 10000) return Math.round(value).toLocaleString("en");
    return new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(value);
  },

  percent(value) {
    return value === null || value === undefined ? NOTHING : `${(100 * value).toFixed(0)} %`;
  },

  change(value) {
    if (value === null || value === undefined) return NOTHING;
    return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;
  },

  seconds(value) {
    if (value === null || value === undefined) return NOTHING;
    if (value < 0.1) return `${(1000 * value).toFixed(value < 0.01 ? 1 : 0)} ms`;
    if (value < 10) return `${value.toFixed(1)} s`;
    if (value < 100) return `${Math.round(value)} s`;
    const minutes = Math.round(value / 60);
    if (minutes < 100) return `${minutes} min`;
    const hours = Math.floor(minutes / 60);
    return hours < 48 ? `${hours} h ${minutes % 60} min` : `${(hours / 24).toFixed(1)} days`;
  },

  bytes(value) {
    if (value === null || value === undefined) return "";
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    const power = value < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(value) / 10));
    const number = value / 1024 ** power;
    return `${number < 10 && power ? number.toFixed(1) : Math.round(number)} ${units[power]}`;
  },

  /** A name of the wire as words: `zero_variance` is "zero variance". */
  words(name) {
    return name.replaceAll("_", " ");
  },

  /** A text of at most so many characters, for Plotly, to which "<" begins a tag. */
  label(text, most) {
    const short = text.length > most ? `${text.slice(0, most - 1)}…` : text;
    return short.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  },
};
