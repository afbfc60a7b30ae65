// Held-out evaluation: a row a source with before, now and change, and the rounds as a chart.
"use strict";

const Evaluation = {
  /** Rows of sources: `{source, metric, before, now, rounds}`; numbers come with their standard error. */
  rows(sources, evaluation) {
    return sources.map(({ name, metric }) => {
      const found = evaluation[name];
      const rounds = found ? found.rounds.filter((round) => round.is_complete) : [];
      return { source: name, metric, before: found?.before ?? null, now: found?.now ?? null, rounds };
    });
  },

  /** `other` has the rows of a run that is compared. */
  table(rows, nowTitle, other = null) {
    const columns = [
      ["source"],
      ["before", "number"],
      [nowTitle, "number"],
      ["change", "number"],
      ["answers", "number extra"],
      ["rounds", "extra"],
      ...(other
        ? [
            [`${other.run}: before`, "number"],
            [`${other.run}: now`, "number"],
            ["difference", "number"],
          ]
        : []),
    ];
    const cells = rows.map((row) => [
      Dom.el("span", {}, Theme.sourceName(row.source), Dom.el("small", { class: "instance muted" }, row.metric)),
      Evaluation.value(row.before),
      Evaluation.value(row.now),
      Evaluation.change(row.before, row.now),
      Evaluation.coverage(row.now),
      Evaluation.spark(row),
      ...(other
        ? Evaluation.beside(
            row,
            other.rows.find(({ source }) => source === row.source),
          )
        : []),
    ]);
    const mean = other ? [] : [Evaluation.meanCells(rows)];
    return Dom.table(columns, rows.length > 1 ? [...cells, ...mean] : cells);
  },

  beside(row, other) {
    const both = row.now && other?.now ? { ...row.now, eval_step: -1 } : null;
    return [Evaluation.value(other?.before), Evaluation.value(other?.now), Evaluation.change(other?.now, both)];
  },

  /** How many answers of the newest round have a score; only these are in its value. */
  coverage(round) {
    if (!round) return NOTHING;
    const isWhole = !round.num_unscored;
    const title = isWhole ? "every answer has a score" : `${round.num_unscored} of ${round.num_judged} have no score`;
    const words = isWhole ? Format.count(round.num_judged) : `${(100 * round.coverage).toFixed(1)} % scored`;
    return Dom.el("span", { class: isWhole ? "muted" : "bad", title }, words);
  },

  meanCells(rows) {
    const whole = rows.filter(
      (row) => Evaluation.isKnown(row.before) && Evaluation.isKnown(row.now) && row.before !== row.now,
    );
    const mean = (key) => whole.reduce((sum, row) => sum + row[key].value, 0) / whole.length;
    const [before, now] = whole.length ? [mean("before"), mean("now")] : [null, null];
    const change = whole.length ? Format.change(now - before) : NOTHING;
    return [
      Dom.el("span", { class: "muted" }, "mean"),
      ...[Format.fixed(before), Format.fixed(now), change].map((text) => Dom.el("b", {}, text)),
      "",
      "",
    ];
  },

  /** A round in which no answer has a score has no value. */
  isKnown(round) {
    return Boolean(round) && round.value !== null;
  },

  value(round) {
    if (!Evaluation.isKnown(round)) return NOTHING;
    const error = round.standard_error ? ` ± ${Format.fixed(round.standard_error)}` : "";
    return Dom.el("span", {}, Format.fixed(round.value), Dom.el("span", { class: "muted extra" }, error));
  },

  /** Coloured where it is larger than twice its standard error. */
  change(before, now) {
    if (!Evaluation.isKnown(before) || !Evaluation.isKnown(now) || before.eval_step === now.eval_step) return NOTHING;
    const change = now.value - before.value;
    const noise = 2 * Math.hypot(before.standard_error ?? 0, now.standard_error ?? 0);
    const kind = Math.abs(change) <= noise ? "muted" : change > 0 ? "good" : "bad";
    const title = kind === "muted" ? "within two standard errors" : "more than two standard errors";
    return Dom.el("b", { class: kind, title }, Format.change(change));
  },

  /** The rounds as a line between 0 and 1. */
  spark({ source, rounds: all }) {
    const rounds = all.filter(Evaluation.isKnown);
    if (rounds.length < 2) return NOTHING;
    const last = rounds.at(-1).eval_step || 1;
    const top = Math.max(1, ...rounds.map((round) => round.value));
    const points = rounds.map((round) => [(116 * round.eval_step) / last + 2, 28 - (26 * round.value) / top]);
    const color = Theme.sourceVariable(source);
    return Dom.svg(
      "svg",
      { class: "spark", viewBox: "0 0 120 30", role: "img", "aria-label": "rounds so far" },
      Dom.svg("line", { x1: 2, x2: 118, y1: 28, y2: 28, style: { stroke: "var(--line)" } }),
      Dom.svg("polyline", { points: points.join(" "), fill: "none", "stroke-width": 1.8, style: { stroke: color } }),
      Dom.svg("circle", { cx: points.at(-1)[0], cy: points.at(-1)[1], r: 2.8, style: { fill: color } }),
    );
  },

  draw(node, rows, other = null) {
    const series = Evaluation.series(rows).concat(
      other ? Evaluation.series(other.rows, { dashed: true, axes: other.axes }, ` (${other.run})`) : [],
    );
    Charts.draw(node, () => Charts.lines(series));
    return series;
  },

  series(rows, more = {}, suffix = "") {
    return rows
      .filter((row) => row.rounds.length)
      .map((row) => ({
        name: row.source + suffix,
        color: () => Theme.sourceColor(row.source),
        x: row.rounds.map((round) => round.eval_step),
        y: row.rounds.map((round) => round.value),
        error: row.rounds.map((round) => round.standard_error ?? 0),
        ...more,
      }));
  },

  /** Table and chart in the places that the document has for them. */
  show(rows, nowTitle, other = null) {
    const place = Dom.byId("evaluation");
    const save = Export.button(() => Export.table("held_out", place.querySelector("table")));
    Dom.show(place, Dom.el("div", { class: "card" }, save, Evaluation.table(rows, nowTitle, other)));
    const figure = Dom.byId("evaluation-chart").closest("figure");
    figure.hidden = false;
    const series = Evaluation.draw(Dom.byId("evaluation-chart"), rows, other);
    figure.querySelector(".export")?.remove();
    figure.querySelector("figcaption").append(Export.button(() => Export.figure("held_out_by_step", series)));
  },
};
