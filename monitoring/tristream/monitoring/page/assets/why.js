// What changed around a step, in a dialog: causes with bars, the same samples before and after, commands.
"use strict";

const Why = {
  asked: 0,

  /** Ask why the reward of a source changed at a step, and show it; an empty source means all. */
  async open(step, source = "") {
    const asked = (Why.asked += 1);
    Why.show(step, source, Dom.el("p", { class: "empty" }, "comparing the steps around it …"));
    const query = new URLSearchParams({ step, source });
    let parts;
    try {
      const response = await fetch(`/api/why?${query}`);
      parts = response.ok ? Why.parts(await response.json()) : [Dom.empty(await response.text())];
    } catch {
      parts = [Dom.empty("the monitor does not answer")];
    }
    if (asked === Why.asked) Why.show(step, source, ...parts);
  },

  show(step, source, ...parts) {
    const dialog = Dom.byId("why");
    const title = `Why at step ${step}${source ? ` in ${source}` : ""}?`;
    const close = Dom.el("button", { type: "button", class: "why-close", onclick: () => dialog.close() }, "Close");
    Dom.show(dialog, Dom.el("div", { class: "why-head" }, Dom.el("h2", {}, title), close), ...parts);
    if (!dialog.open) dialog.showModal();
  },

  parts(found) {
    return [
      Dom.el("p", { class: "why-verdict" }, found.verdict),
      Why.windows(found.change),
      Why.heldOut(found.held_out),
      found.notes.length ? Dom.el("ul", { class: "why-notes" }, found.notes.map((note) => Dom.el("li", {}, note))) : null,
      Why.causes(found.causes),
      ...found.pairs.map(Why.pair),
      Why.commands(found.commands),
    ];
  },

  windows({ steps_before: before, steps_after: after, delta, error }) {
    const words = `Steps ${before.join("–")} against ${after.join("–")}, all judged rollouts: `;
    return Dom.el("p", { class: "muted" }, words, `${Format.change(delta)} ± ${Format.fixed(error)}`);
  },

  heldOut(rounds) {
    const rows = Object.entries(rounds).map(([source, row]) => [
      source,
      row.metric,
      ...["before", "after"].map((side) => `${Format.fixed(row[`value_${side}`])} (step ${row[`eval_step_${side}`]})`),
    ]);
    if (!rows.length) return null;
    return Dom.table([["held-out"], ["metric"], ["before", "number"], ["after", "number"]], rows);
  },

  causes(causes) {
    const shown = causes.filter((cause) => cause.stands_out || Math.abs(cause.delta) >= 0.0005);
    return Dom.el("div", { class: "why-causes" }, shown.map(Why.cause));
  },

  cause(cause) {
    const kind = cause.delta < 0 ? "lowers" : "raises";
    const bar = Dom.el("span", { class: `why-bar ${kind}`, style: { width: `${(50 * cause.share).toFixed(1)}%` } });
    const name = cause.source ? `${cause.title} in ${cause.source}` : cause.title;
    return Dom.el(
      "div",
      { class: cause.stands_out ? "why-cause" : "why-cause quiet" },
      Dom.el("div", { class: "why-name" }, name),
      Dom.el("div", { class: "why-track", title: `${Format.percent(cause.share)} of all that moved` }, bar),
      Dom.el("div", { class: "why-delta" }, `${Format.change(cause.delta)} ± ${Format.fixed(cause.error)}`),
      Dom.el("div", { class: "why-detail" }, [cause.detail, ...cause.evidence].filter(Boolean).join(" · ")),
    );
  },

  pair({ sample_id: sample, before, after }) {
    const addressOf = (sha256) => `/api/images/${sha256}`;
    const side = (title, rollout) =>
      Dom.el("div", {}, Dom.el("h4", {}, title), Gallery.card(rollout, addressOf));
    return Dom.el(
      "section",
      { class: "why-pair" },
      Dom.el("h3", {}, `Sample ${sample}`),
      Dom.el("div", { class: "why-sides" }, side("before", before), side("after", after)),
    );
  },

  commands(commands) {
    if (!commands.length) return null;
    return Dom.el("section", {}, Dom.el("h3", {}, "Look closer"), Dom.el("pre", { class: "why-commands" }, commands.join("\n")));
  },
};
