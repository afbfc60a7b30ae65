// The live page: asks its server every two seconds while it is seen, and shows what changed.
"use strict";

const POLL_MS = 2000;
const SLOW_POLL_MS = 10000;
const NARROW_PIXELS = 700;

const Live = {
  overview: null,
  status: null,
  curves: null,
  shownStep: null,
  shownRounds: null,
  galleryTime: 0,

  async ask(path) {
    const response = await fetch(path);
    const body = await response.json();
    if (!response.ok) throw new Error(body.error);
    return body;
  },

  async poll() {
    try {
      if (!document.hidden) await Live.refresh();
      Dom.byId("trouble").hidden = true;
    } catch (error) {
      Dom.byId("trouble").hidden = false;
      Dom.byId("trouble").textContent = `The monitor does not answer (${error.message}). Asking again.`;
    }
    window.setTimeout(Live.poll, POLL_MS);
  },

  async refresh() {
    const paths = ["/api/overview", "/api/status", "/api/sources"];
    const [overview, status, sources] = await Promise.all(paths.map(Live.ask));
    [Live.overview, Live.status] = [overview, status];
    if (!Theme.sources.length) Live.start();
    Status.showState(Live.overview, Live.status);
    Status.showParts(Live.status);
    Live.showEvaluation();
    Live.showTables();
    Sources.show(Dom.byId("source-groups"), sources);
    await Live.refreshCurves();
    Status.showHead(Live.overview, Live.curves);
    if (Date.now() - Live.galleryTime > SLOW_POLL_MS) await Live.refreshGallery();
  },

  start() {
    Theme.sources = Live.overview.settings.sources.map((source) => source.name);
    Curves.showLegend(Dom.byId("legend"));
    const options = ["all sources", ...Theme.sources].map((name, index) =>
      Dom.el("option", { value: index ? name : "" }, name),
    );
    Dom.show(Dom.byId("gallery-source"), options);
    Dom.byId("gallery-source").addEventListener("change", () => Live.refreshGallery());
  },

  showEvaluation() {
    const rows = Evaluation.rows(Live.overview);
    const rounds = JSON.stringify(rows);
    const hasRounds = rows.some((row) => row.rounds.length);
    Dom.byId("evaluation-chart").closest("figure").hidden = !hasRounds;
    if (!hasRounds) {
      const words = `No complete round yet: ${Live.judged()}${Status.waits(Live.status, ["producer", "verifier"])}.`;
      Dom.show(Dom.byId("evaluation"), Dom.empty(words));
      return;
    }
    if (rounds === Live.shownRounds) return;
    Live.shownRounds = rounds;
    Dom.show(Dom.byId("evaluation"), Dom.el("div", { class: "card" }, Evaluation.table(rows, "now")));
    Evaluation.draw(Dom.byId("evaluation-chart"), rows);
  },

  judged() {
    const rounds = Object.values(Live.overview.evaluation).flatMap((found) => found.rounds);
    const sum = (key) => rounds.reduce((total, round) => total + round[key], 0);
    return rounds.length ? `${sum("num_judged")} of ${sum("num_prompts")} answers judged; ` : "";
  },

  showTables() {
    const { groups, verifiers, changes } = Live.overview;
    Charts.setMarks(changes);
    const card = (...children) => Dom.el("div", { class: "card" }, ...children);
    const wait = (what, part) => Dom.empty(`No ${what} yet: ${Status.waits(Live.status, [part])}.`);
    Dom.show(Dom.byId("groups"), groups.dispatched ? card(Facts.groups(groups)) : wait("group", "dispatcher"));
    Dom.show(Dom.byId("verifiers"), verifiers.length ? card(Facts.verifiers(verifiers)) : wait("reward", "verifier"));
    Dom.show(Dom.byId("changes"), changes.length ? card(Facts.changes(changes)) : []);
  },

  /** Curves change with the step, so they are asked for only then; an answer may be some steps old. */
  async refreshCurves() {
    const { step } = Live.overview;
    for (const place of document.querySelectorAll(".until-step")) {
      Dom.show(
        place,
        step.num_steps ? [] : Dom.empty(`No step yet: ${Status.waits(Live.status, ["assembler", "learner"])}.`),
      );
    }
    if (!step.num_steps || step.step === Live.shownStep) return;
    const curves = await Live.ask("/api/curves");
    const newest = curves.max_age.x.at(-1);
    if (newest === Live.shownStep) return;
    Live.shownStep = newest;
    Live.curves = curves;
    Curves.show(curves);
    Curves.showLayers(await Live.ask("/api/layers"));
  },

  /** Cards stay while the pointer is on them. */
  async refreshGallery() {
    const place = Dom.byId("gallery");
    if (place.matches(":hover")) return;
    Live.galleryTime = Date.now();
    const source = encodeURIComponent(Dom.byId("gallery-source").value);
    const limit = window.innerWidth < NARROW_PIXELS ? 8 : 24;
    const rollouts = await Live.ask(`/api/rollouts?source=${source}&limit=${limit}`);
    if (rollouts.length) Gallery.show(place, rollouts, (sha256) => `/api/images/${sha256}`);
    else Dom.show(place, Dom.empty(`No judged rollout yet: ${Status.waits(Live.status, ["producer", "verifier"])}.`));
  },
};

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) Live.galleryTime = 0;
});
Live.poll();
