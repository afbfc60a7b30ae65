// What became of the newest groups of each source: drops by reason, all wrong answers with one to look at, pauses.
"use strict";

const FEWEST_GROUPS = 16;
const WORRYING_DROPPED = 0.75;
const WORRYING_WRONG = 0.5;

const Sources = {
  show(node, rows) {
    const known = rows.filter((row) => row.num_groups || row.paused);
    if (!known.length) {
      Dom.show(node, Dom.empty("No group is settled yet."));
      return;
    }
    const columns = [
      ["source"],
      ["dropped", "number"],
      ["all wrong", "number"],
      ["why", "words"],
      ["newest groups", "number extra"],
    ];
    const answers = known.filter((row) => row.answer && Sources.isWorrying(row)).map(Sources.answer);
    const table = Dom.table(columns, known.map(Sources.cells));
    const save = Export.button(() => Export.table("groups_by_source", table.querySelector("table")));
    Dom.show(node, Dom.el("div", { class: "card" }, save, table, answers));
  },

  cells(row) {
    const allWrong = Sources.share(row, row.num_all_wrong);
    return [
      Dom.el("span", {}, Theme.sourceName(row.source), row.paused ? Sources.pause(row.paused) : null),
      Format.percent(Sources.share(row, Sources.numDropped(row))),
      Dom.el("span", { class: allWrong >= WORRYING_WRONG ? "bad" : null }, Format.percent(allWrong)),
      Dom.el("span", { class: "muted" }, Sources.reasons(row)),
      Format.count(row.num_groups),
    ];
  },

  pause(reason) {
    return Dom.el("small", { class: "instance bad" }, `paused: ${reason}`);
  },

  /** One answer to a dropped group, as it was asked, given and wanted. */
  answer({ source, answer }) {
    const pairs = [
      ["asked", answer.prompt],
      ["answered", answer.text || answer.error || "nothing"],
      ["wanted", answer.truth],
    ];
    return Dom.el(
      "div",
      { class: "looked-at" },
      Dom.el("h3", {}, `An answer to group ${answer.number} of ${source}, which was dropped`),
      Dom.el(
        "dl",
        { class: "says" },
        pairs.map(([name, text]) => [Dom.el("dt", {}, name), Dom.el("dd", {}, text)]).flat(),
      ),
    );
  },

  isWorrying(row) {
    if (row.paused) return true;
    const isLost =
      Sources.share(row, row.num_all_wrong) >= WORRYING_WRONG ||
      Sources.share(row, Sources.numDropped(row)) >= WORRYING_DROPPED;
    return isLost && row.num_groups >= FEWEST_GROUPS;
  },

  numDropped(row) {
    return Object.values(row.dropped).reduce((sum, number) => sum + number, 0);
  },

  share(row, number) {
    return row.num_groups ? number / row.num_groups : null;
  },

  reasons(row) {
    const entries = Object.entries(row.dropped).sort(([, one], [, other]) => other - one);
    const words = ([reason, number]) => `${Format.percent(Sources.share(row, number))} ${Format.words(reason)}`;
    return entries.length ? entries.map(words).join(", ") : NOTHING;
  },
};
