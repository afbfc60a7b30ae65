// Held-out evaluation: a row a source with before, now and change, and the rounds as a chart.
"use strict";

const Evaluation = {
  /** Rows from the overview: `{source, metric, before, now, rounds}`; numbers come with their standard error. */
  rows(overview) {
    return overview.settings.sources.map(({ name, metric }) => {
      const found = overview.evaluation[name];
      const rounds = found ? found.rounds.filter((round) => round.is_complete) : [];
      return { source: name, metric, before: found?.before ?? null, now: found?.now ?? null, rounds };
    });
  },

  table(rows, nowTitle) {
    const columns = [
      ["source"],
      ["metric", "extra"],
      ["before", "number"],
      [nowTitle, "number"],
      ["change", "number"],
      ["rounds"],
    ];
    const cells = rows.map((row) => [
      Theme.sourceName(row.source),
      Dom.el("span", { class: "muted" }, row.metric),
      Evaluation.value(row.before),
      Evaluation.value(row.now),
      Evaluation.change(row.before, row.now),
      Evaluation.spark(row),
    ]);
    return Dom.table(columns, rows.length > 1 ? [...cells, Evaluation.meanCells(rows)] : cells);
  },

  meanCells(rows) {
    const whole = rows.filter((row) => row.before && row.now && row.before !== row.now);
    const mean = (key) => whole.reduce((sum, row) => sum + row[key].value, 0) / whole.length;
    const [before, now] = whole.length ? [mean("before"), mean("now")] : [null, null];
    const change = whole.length ? Format.change(now - before) : NOTHING;
    return [
      Dom.el("span", { class: "muted" }, "mean"),
      "",
      ...[Format.fixed(before), Format.fixed(now), change].map((text) => Dom.el("b", {}, text)),
      "",
    ];
  },

  value(round) {
    if (!round) return NOTHING;
    const error = round.standard_error ? ` ± ${Format.fixed(round.standard_error)}` : "";
    return Dom.el("span", {}, Format.fixed(round.value), Dom.el("span", { class: "muted extra" }, error));
  },

  /** Coloured where it is larger than twice its standard error. */
  change(before, now) {
    if (!before || !now || before.eval_step === now.eval_step) return NOTHING;
    const change = now.value - before.value;
    const noise = 2 * Math.hypot(before.standard_error ?? 0, now.standard_error ?? 0);
    const kind = Math.abs(change) <= noise ? "muted" : change > 0 ? "good" : "bad";
    const title = kind === "muted" ? "within two standard errors" : "more than two standard errors";
    return Dom.el("b", { class: kind, title }, Format.change(change));
  },

  /** The rounds as a line between 0 and 1. */
  spark({ source, rounds }) {
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

  draw(node, rows) {
    const series = rows
      .filter((row) => row.rounds.length)
      .map((row) => ({
        name: row.source,
        color: () => Theme.sourceColor(row.source),
        x: row.rounds.map((round) => round.eval_step),
        y: row.rounds.map((round) => round.value),
        error: row.rounds.map((round) => round.standard_error ?? 0),
      }));
    Charts.draw(node, () => Charts.lines(series));
  },
};
