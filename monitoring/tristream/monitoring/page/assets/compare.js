// Another run of the same database beside this one: its curves dashed, its held-out values in the table.
"use strict";

const Compare = {
  run: "",
  evaluation: null,

  async showControls(place) {
    const runs = (await Live.ask("/api/runs")).filter(({ run }) => run !== Live.head.run);
    if (!runs.length) return;
    const options = runs.map(({ run, created_ms: created }) =>
      Dom.el("option", { value: run }, `${run}, ${new Date(created).toLocaleDateString()}`),
    );
    const choose = (event) => Compare.choose(event.currentTarget.value).catch(Live.tell);
    const none = Dom.el("option", { value: "" }, "compare with no run");
    Dom.show(
      place,
      Dom.el("select", { id: "other-run", "aria-label": "run to compare with", onchange: choose }, none, options),
    );
  },

  async choose(run) {
    Compare.run = run;
    Compare.evaluation = run ? await Live.ask(`/api/evaluation?run=${encodeURIComponent(run)}`) : null;
    Curves.other = null;
    await Compare.refresh();
    if (!run && Curves.newest) Curves.showSources(Curves.newest);
    Live.showEvaluation();
  },

  async refresh() {
    const { run } = Compare;
    if (!run) return;
    const parts = Dom.byId("more-sources").open ? "main,more" : "main";
    const path = `${Live.curvesPath(parts)}&run=${encodeURIComponent(run)}`;
    const curves = await Live.ask(path);
    if (run !== Compare.run) return;
    Curves.other = { run, curves };
    if (Curves.newest) Curves.showSources(Curves.newest);
  },

  /** The other run's rows and axes, for table and chart. */
  heldOut() {
    if (!Compare.evaluation) return null;
    const { run, sources, evaluation } = Compare.evaluation;
    return { run, rows: Evaluation.rows(sources, evaluation), axes: Curves.other?.curves.axes };
  },
};
