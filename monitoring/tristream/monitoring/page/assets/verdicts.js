// One rollout as a whole: its image with boxes, its texts, and what each verifier version said of it.
"use strict";

const Verdicts = {
  close() {
    const close = () => Dom.byId("rollout").close();
    return Dom.el("button", { type: "button", class: "close", "aria-label": "close", onclick: close }, "×");
  },

  whole(rollout) {
    const images = rollout.image_hashes.map((sha256) => Boxes.picture(rollout, `/api/images/${sha256}`));
    return Dom.el(
      "article",
      { class: "whole" },
      Dom.el("div", { class: "whole-head" }, Gallery.head(rollout), Verdicts.close()),
      Dom.el("p", { class: "muted" }, Verdicts.place(rollout)),
      Dom.el("div", { class: "whole-body" }, Dom.el("div", { class: "whole-images" }, images), Verdicts.texts(rollout)),
      Dom.el("h3", {}, "Verdicts"),
      Verdicts.table(rollout),
      Dom.el("h3", {}, "Its group"),
      Verdicts.siblings(rollout),
      Dom.el("h3", {}, "Facts"),
      Verdicts.facts(rollout),
    );
  },

  place({ split, eval_step: evalStep, eval_attempt: attempt, number, rollout_index: index, group_size: size }) {
    const round = attempt ? `step ${evalStep}, attempt ${attempt}` : `step ${evalStep}`;
    const where = split === "eval" ? `held-out, ${round}, prompt ${number}` : `group ${number}`;
    return `${where}, rollout ${index} of 0 to ${size - 1}`;
  },

  texts(rollout) {
    const swatch = (kind) => Dom.el("span", { class: `swatch ${kind}` });
    return Dom.el(
      "dl",
      { class: "says" },
      Dom.el("dt", {}, "prompt"),
      Dom.el("dd", {}, rollout.prompt.trim() || "(empty)"),
      Dom.el("dt", {}, "answer", rollout.predicted_boxes.length ? [swatch("predicted"), "predicted boxes"] : null),
      Dom.el("dd", {}, rollout.text.trim() || rollout.error || "(empty)"),
      Dom.el("dt", {}, "truth", rollout.true_boxes.length ? [swatch("truth"), "true boxes"] : null),
      Dom.el("dd", {}, rollout.truth.trim()),
    );
  },

  table(rollout) {
    const columns = [["verifier"], ["mode"], ["status"], ["components"], ["metrics"], ["says"], ["took", "number"]];
    const rows = rollout.verdicts.map((verdict) => [
      Dom.el(
        "span",
        { title: `term ${verdict.term_id}` },
        verdict.verifier,
        Dom.el("span", { class: "muted" }, ` ${verdict.version}`),
      ),
      verdict.is_active ? "active" : verdict.is_shadow ? "shadow" : "other version",
      Dom.el("span", { class: verdict.status === "scored" ? "good" : "bad" }, verdict.status),
      Verdicts.numbers(verdict.components, (name) => rollout.reward_weights[`${verdict.term_id}.${name}`]),
      Verdicts.numbers(verdict.metrics),
      Verdicts.detail(verdict),
      Format.seconds(verdict.score_seconds),
    ]);
    const awaited = rollout.awaited.map(({ verifier, version, mode }) => [
      Dom.el("span", {}, verifier, Dom.el("span", { class: "muted" }, ` ${version}`)),
      mode === "shadow" ? "shadow" : "active",
      Dom.el("span", { class: "warn" }, "awaited"),
      ...Array(4).fill(""),
    ]);
    if (!rows.length && !awaited.length) return Dom.empty("No verifier was asked for a verdict.");
    return Dom.table(columns, [...rows, ...awaited]);
  },

  /** Numbers by name; those that count with their weight. */
  numbers(values, weightOf = () => undefined) {
    const chip = ([name, value]) => {
      const weight = weightOf(name);
      const words = weight === undefined ? "" : ` × ${Format.short(weight)}`;
      return Dom.el("span", { class: "chip" }, `${name} `, Dom.el("b", {}, Format.short(value)), words);
    };
    return Dom.el("div", { class: "chips" }, Object.entries(values).sort().map(chip));
  },

  detail({ detail, params_json: params }) {
    const hasParams = params && params !== "{}";
    const more = Dom.el("details", {}, Dom.el("summary", {}, "parameters"), Dom.el("pre", {}, params));
    return Dom.el("div", { class: "detail" }, detail, hasParams ? more : null);
  },

  siblings(rollout) {
    const link = ({ rollout_index: index, reward }) =>
      Dom.el(
        "a",
        {
          class: "chip",
          href: `#rollout=${Gallery.address({ ...rollout, rollout_index: index })}`,
          "aria-current": index === rollout.rollout_index ? "true" : null,
        },
        `${index}: `,
        Dom.el("b", {}, Format.fixed(reward, 2)),
      );
    return Dom.el("div", { class: "chips" }, rollout.siblings.map(link));
  },

  facts(rollout) {
    const { oldest_version: oldest, version } = rollout;
    const became = [rollout.fate, rollout.reason].filter(Boolean).map(Format.words).join(", ");
    const facts = [
      ["became", rollout.at_step && rollout.split === "train" ? `${became} at step ${rollout.at_step}` : became],
      ["advantage", rollout.advantage === null ? null : Format.short(rollout.advantage)],
      ["age", rollout.age],
      ["policy version", oldest === version ? version : `${oldest} to ${version}`],
      ["ended by", rollout.finish_reason],
      ["tokens", `${rollout.num_prompt_tokens} asked, ${rollout.num_tokens} answered`],
      ["temperature", Format.short(rollout.temperature)],
      ["waited, generated", `${Format.seconds(rollout.queued_seconds)}, ${Format.seconds(rollout.generate_seconds)}`],
      ["producer", rollout.producer],
      ["sample", rollout.sample_id],
      ["time", new Date(rollout.created_ms).toLocaleString()],
    ];
    const known = facts.filter(([, value]) => value !== null && value !== undefined && value !== "");
    return Dom.el(
      "dl",
      { class: "facts" },
      known.map(([name, value]) => Dom.el("div", {}, Dom.el("dt", {}, name), Dom.el("dd", {}, String(value)))),
    );
  },
};
