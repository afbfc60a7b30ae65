// Rollouts as cards. Cards that stay are not made again, so nothing flickers while people read.
"use strict";

const Gallery = {
  /** Show rollouts in a place; `addressOf` maps the sha256 of an image to its address, or null. */
  show(place, rollouts, addressOf) {
    const known = new Map([...place.children].map((card) => [card.dataset.key, card]));
    const cards = rollouts.map((rollout) => known.get(Gallery.key(rollout)) ?? Gallery.card(rollout, addressOf));
    if (cards.length !== place.children.length || cards.some((card, index) => place.children[index] !== card)) {
      place.replaceChildren(...cards);
    }
  },

  add(place, rollouts, addressOf) {
    place.append(...rollouts.map((rollout) => Gallery.card(rollout, addressOf)));
  },

  key(rollout) {
    const said = rollout.verdicts.map(({ term_id: term, version, status }) => `${term}@${version}:${status}`);
    return [Gallery.address(rollout), rollout.reward, ...said].join(" ");
  },

  /** What the permalink of a rollout ends with. */
  address({ split, eval_step: evalStep, eval_attempt: attempt, number, rollout_index: index }) {
    return [split, evalStep, attempt, number, index].join("/");
  },

  card(rollout, addressOf) {
    const body = Dom.el(
      "div",
      { class: "rollout-body" },
      Gallery.head(rollout),
      Gallery.question(rollout),
      Gallery.says(rollout),
      Gallery.chips(rollout),
    );
    const card = Dom.el("article", { class: "card rollout" }, Gallery.images(rollout, addressOf), body);
    card.dataset.key = Gallery.key(rollout);
    return card;
  },

  images(rollout, addressOf) {
    if (!rollout.image_hashes.length) return [];
    const [first, ...others] = rollout.image_hashes.map(addressOf);
    const left = Dom.el("div", { class: "picture muted" }, "image left out to keep this file small");
    const thumbs = others.filter(Boolean).map((src) => Dom.el("img", { src, alt: "another image" }));
    return [
      first ? Boxes.picture(rollout, first) : left,
      thumbs.length ? Dom.el("div", { class: "thumbs" }, thumbs) : null,
    ].filter(Boolean);
  },

  head(rollout) {
    const kind = rollout.reward === null ? "muted" : rollout.reward >= 0.5 ? "good" : "bad";
    const reward = Dom.el(
      "span",
      { class: `reward ${kind}`, title: "final reward, known once its group is settled" },
      rollout.reward !== null ? Format.fixed(rollout.reward, 2) : rollout.fate ? "no reward" : "in flight",
    );
    return Dom.el("div", { class: "rollout-head" }, Theme.sourceName(rollout.source), reward);
  },

  question(rollout) {
    return Dom.el("p", { class: "question" }, rollout.prompt.replaceAll("<image>", "").trim());
  },

  says(rollout) {
    const swatch = (kind) => Dom.el("span", { class: `swatch ${kind}` });
    return Dom.el(
      "dl",
      { class: "says" },
      Dom.el("dt", {}, "answer", rollout.predicted_boxes.length ? swatch("predicted") : null),
      Dom.el("dd", {}, rollout.text.trim() || "(empty)"),
      Dom.el("dt", {}, "truth", rollout.true_boxes.length ? swatch("truth") : null),
      Dom.el("dd", {}, rollout.truth.trim()),
    );
  },

  chips(rollout) {
    const chip = (name, value) => Dom.el("span", { class: "chip" }, `${name} `, Dom.el("b", {}, value));
    const components = Object.entries(rollout.components).map(([name, value]) => chip(name, Format.short(value)));
    const shadows = rollout.verdicts.filter((verdict) => verdict.is_shadow).map(Gallery.shadow);
    const broken = Object.entries(rollout.statuses)
      .filter(([, status]) => status !== "scored")
      .map(([name, status]) => Dom.el("span", { class: "chip bad" }, `${name}: ${status}`));
    const ended =
      rollout.finish_reason === "stop"
        ? []
        : [Dom.el("span", { class: "chip bad" }, `ended by ${rollout.finish_reason}`)];
    const origin = rollout.split === "eval" ? chip("held-out, step", rollout.eval_step) : chip("group", rollout.number);
    return Dom.el(
      "div",
      { class: "chips" },
      components,
      shadows,
      broken,
      ended,
      chip("version", rollout.version),
      rollout.split === "train" && rollout.at_step ? chip("step", rollout.at_step) : null,
      chip("tokens", rollout.num_tokens),
      origin,
      Gallery.link(rollout),
    );
  },

  shadow({ verifier, version, status, components }) {
    const numbers = Object.entries(components).map(([name, value]) => `${name} ${Format.short(value)}`);
    const words = status === "scored" ? numbers.join(", ") : status;
    return Dom.el(
      "span",
      { class: "chip shadow", title: "a shadow: it counts for nothing" },
      `shadow ${verifier}@${version}: ${words}`,
    );
  },

  /** A page that can show one rollout as a whole has a place for it. */
  link(rollout) {
    if (!Dom.byId("rollout")) return null;
    return Dom.el("a", { class: "chip permalink", href: `#rollout=${Gallery.address(rollout)}` }, "all of it");
  },
};
