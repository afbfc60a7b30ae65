// The live page: each part of it asks for itself while it is seen, so that nothing waits for what is slow.
"use strict";

const POLL_MS = 700;
const SLOW_POLL_MS = 3000;
/** Points of a curve: as many as a small chart has pixels for; a zoom asks for those of its range. */
const POINTS = 200;
const ZOOM_DELAY_MS = 150;

const Live = {
  head: null,
  status: null,
  evaluation: null,
  shownEvaluation: null,
  curvesAsked: "",
  /** No curves are asked for before this time. */
  curvesTime: 0,
  isAsking: false,

  async ask(path) {
    const response = await fetch(path);
    const body = await response.json();
    if (!response.ok) throw new Error(body.error);
    return body;
  },

  /** Ask again and again while the page is seen; each loop by itself. */
  loop(pause, refresh) {
    const turn = async () => {
      try {
        if (!document.hidden) await refresh();
      } catch (error) {
        Live.tell(error);
      }
      window.setTimeout(turn, pause);
    };
    turn();
  },

  tell(error) {
    Dom.byId("trouble").hidden = false;
    Dom.byId("trouble").textContent = `The monitor does not answer (${error.message}). Asking again.`;
  },

  async refreshHead() {
    Live.head = await Live.ask("/api/head");
    Dom.byId("trouble").hidden = true;
    Status.showHead(Live.head, Live.groups);
    if (!Theme.sources.length) Live.start();
    Live.showState();
    Live.refreshCurves().catch(Live.tell);
  },

  /** What needs to know the sources begins when the head is there. */
  start() {
    Theme.sources = Live.head.settings.sources.map((source) => source.name);
    Curves.showLegend(Dom.byId("legend"));
    Axis.showControls(Dom.byId("axis"));
    Axis.onChange(Live.onZoom);
    Compare.showControls(Dom.byId("compare"));
    Curves.onPoint = (step, source) => {
      if (typeof Why === "undefined") Rollouts.searchFor({ source, first_step: step, last_step: step, split: "train" });
      else Why.open(step, source);
    };
    for (const id of ["more-sources", "layers"]) Dom.byId(id).addEventListener("toggle", () => Live.askCurvesAnew());
    Live.loop(POLL_MS, Live.refreshStatus);
    Live.startOthers();
  },

  /** Places that are still empty say what is waited for, which the status knows. */
  startOthers() {
    if (!Live.status) {
      window.setTimeout(Live.startOthers, 50);
      return;
    }
    Live.loop(SLOW_POLL_MS, Live.refreshEvaluation);
    Live.loop(SLOW_POLL_MS, Live.refreshTables);
    Rollouts.start();
  },

  async refreshStatus() {
    Live.status = await Live.ask("/api/status");
    Status.showParts(Live.status);
    Live.showState();
  },

  showState() {
    if (!Live.status) return;
    Status.showState(Live.head, Live.status);
    const words = `No step yet: ${Status.waits(Live.status, ["assembler", "learner"])}.`;
    for (const place of document.querySelectorAll(".until-step")) {
      Dom.show(place, Live.head.step.num_steps ? [] : Dom.empty(words));
    }
  },

  async refreshEvaluation() {
    Live.evaluation = await Live.ask("/api/evaluation");
    Live.showEvaluation();
  },

  showEvaluation() {
    const rows = Evaluation.rows(Live.head.settings.sources, Live.evaluation.evaluation);
    const other = Compare.heldOut();
    const shown = JSON.stringify([rows, other?.rows]);
    if (!rows.some((row) => row.rounds.length)) {
      const words = `No complete round yet: ${Live.judged()}${Status.waits(Live.status, ["producer", "verifier"])}.`;
      Dom.show(Dom.byId("evaluation"), Dom.empty(words));
    } else if (shown !== Live.shownEvaluation) {
      Live.shownEvaluation = shown;
      Evaluation.show(rows, "now", other);
    }
  },

  judged() {
    const rounds = Object.values(Live.evaluation.evaluation).flatMap((found) => found.rounds);
    const sum = (key) => rounds.reduce((total, round) => total + round[key], 0);
    return rounds.length ? `${sum("num_judged")} of ${sum("num_prompts")} answers judged; ` : "";
  },

  async refreshTables() {
    const card = (...children) => Dom.el("div", { class: "card" }, ...children);
    const wait = (what, part) => Dom.empty(`No ${what} yet: ${Status.waits(Live.status, [part])}.`);
    Live.groups = await Live.ask("/api/groups");
    Status.showHead(Live.head, Live.groups);
    const { groups } = Live;
    Dom.show(Dom.byId("groups"), groups.dispatched ? card(Facts.groups(groups)) : wait("group", "dispatcher"));
    Sources.show(Dom.byId("source-groups"), await Live.ask("/api/sources"));
    const { verifiers, changes } = await Live.ask("/api/verifiers");
    Charts.setMarks(changes);
    Dom.show(Dom.byId("verifiers"), verifiers.length ? card(Facts.verifiers(verifiers)) : wait("reward", "verifier"));
    Dom.show(Dom.byId("changes"), changes.length ? card(Facts.changes(changes)) : []);
  },

  /** Curves change when a step was reported, when its figures are closed, and with the zoom: asked for only then. */
  async refreshCurves() {
    const wanted = Live.wantedCurves();
    const isTooSoon = Date.now() < Live.curvesTime;
    if (!Live.head.step.num_steps || wanted === Live.curvesAsked || Live.isAsking || isTooSoon) return;
    Live.isAsking = true;
    const began = Date.now();
    try {
      await Live.askCurves();
      Live.curvesAsked = wanted;
    } finally {
      Live.isAsking = false;
    }
    if (`${Axis.shown}` !== wanted.split(" ")[1]) await Live.refreshCurves();
    // A long run costs more to ask, so it is asked less often.
    else Live.curvesTime = Date.now() + 2 * (Date.now() - began);
  },

  async askCurves() {
    const shown = `${Axis.shown}`;
    for (const parts of Live.curveParts()) {
      Curves.show(await Live.ask(Live.curvesPath(parts)));
      if (`${Axis.shown}` !== shown) return;
    }
    if (Dom.byId("layers").open || Dom.byId("layers").hidden) Curves.showLayers(await Live.ask("/api/layers"));
    await Compare.refresh();
  },

  /** Grows with the newest report and with each closing, whatever the clocks of their hosts say. */
  newest() {
    return Live.head.closed_ms + Live.head.step.last_ms;
  },

  wantedCurves() {
    const opened = ["more-sources", "layers"].filter((id) => Dom.byId(id).open);
    return `${Live.newest()} ${Axis.shown} ${opened}`;
  },

  curveParts() {
    return Dom.byId("more-sources").open
      ? ["main", "more", "components", "learner"]
      : ["main", "components", "learner"];
  },

  curvesPath(parts) {
    const range = Axis.shown ? `&first=${Axis.shown[0]}&last=${Axis.shown[1]}` : "";
    return `/api/curves?parts=${parts}&points=${POINTS}&newest=${Live.newest()}${range}`;
  },

  askCurvesAnew() {
    Live.curvesTime = 0;
    Live.refreshCurves().catch(Live.tell);
  },

  onZoom() {
    window.clearTimeout(Live.zoomTimer);
    Live.zoomTimer = window.setTimeout(() => Live.askCurvesAnew(), ZOOM_DELAY_MS);
  },
};

Live.loop(POLL_MS, Live.refreshHead);
