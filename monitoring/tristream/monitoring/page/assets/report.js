// The report: everything is in the document already, so it is shown once.
"use strict";

const Report = {
  show(data) {
    const { overview, summary } = data;
    Theme.sources = overview.settings.sources.map((source) => source.name);
    Charts.setMarks(overview.changes);
    Report.showHead(overview, summary);
    Report.showEvaluation(overview, summary);
    Curves.showLegend(Dom.byId("legend"));
    Axis.showControls(Dom.byId("axis"));
    Curves.show(data.curves);
    Curves.showLayers(data.layers);
    Dom.show(Dom.byId("groups"), Report.card(Facts.groups(summary.groups)));
    Report.showPhases(summary.seconds);
    Dom.show(Dom.byId("verifiers"), Report.card(Facts.verifiers(overview.verifiers)));
    Dom.show(Dom.byId("changes"), overview.changes.length ? Report.card(Facts.changes(overview.changes)) : []);
    Report.showExamples(data.examples, data.images);
    Dom.byId("run-file").textContent = data.run_file;
  },

  card(...children) {
    return Dom.el("div", { class: "card" }, ...children);
  },

  showHead({ settings, work, num_dead_letters: numDeadLetters, reward }, { steps, groups, seconds }) {
    const words = [
      `model ${settings.model}`,
      `${settings.groups_per_step} groups of ${settings.group_size} a step`,
      `${new Date(work.first_ms).toLocaleString()} – ${new Date(work.last_ms).toLocaleString()}`,
    ];
    Dom.show(
      Dom.byId("progress-words"),
      words.map((word) => Dom.el("span", {}, word)),
    );
    const numDropped = Object.values(groups.dropped).reduce((sum, number) => sum + number, 0);
    Dom.show(
      Dom.byId("figures"),
      Facts.figures([
        ["steps", Format.count(steps), `of ${settings.total_steps}`],
        ["time", Format.seconds(seconds.total), null],
        ["reward", Format.fixed(reward), "all judged rollouts, newest step"],
        ["tokens per second", Format.count(work.mean_tokens_per_second), "whole run"],
        ["rollouts", Format.count(work.num_rollouts), `${Format.count(work.num_tokens)} tokens with held-out`],
        ["groups trained", Format.count(groups.trained), `${numDropped} dropped, ${groups.pending} pending`],
        ["dead letters", Format.count(numDeadLetters), null, numDeadLetters > 0],
      ]),
    );
  },

  /** The summary's numbers, with the standard errors of the rounds they come from. */
  showEvaluation(overview, summary) {
    const rows = Evaluation.rows(overview.settings.sources, overview.evaluation).map((row) => {
      const facts = summary.sources[row.source] ?? {};
      const number = (round, value) => (value === null || value === undefined ? null : { ...round, value });
      return { ...row, before: number(row.before, facts.eval_before), now: number(row.now, facts.eval_after) };
    });
    const hasRounds = rows.some((row) => row.rounds.length);
    if (hasRounds) Evaluation.show(rows, "after");
    else Dom.show(Dom.byId("evaluation"), Report.card(Evaluation.table(rows, "after")));
  },

  showPhases(seconds) {
    const entries = Object.entries(seconds).filter(([name]) => name !== "total");
    const learner = entries
      .filter(([name]) => name.startsWith("learner_"))
      .map(([name, value]) => [name.slice(8), value]);
    const whole = entries.filter(([name]) => !name.startsWith("learner_"));
    const tables = [
      ["run", whole],
      ["learner", learner],
    ].filter(([, rows]) => rows.length);
    Dom.show(Dom.byId("phases"), Report.card(tables.map(([title, rows]) => Facts.phases(title, rows))));
  },

  showExamples(examples, images) {
    const place = Dom.byId("examples");
    for (const source of Theme.sources.filter((name) => examples[name])) {
      const { best, worst } = examples[source];
      const gallery = Dom.el("div", { class: "gallery compact" });
      Gallery.show(gallery, [...best, ...worst], (sha256) => images[sha256] ?? null);
      const words = worst.length ? `${best.length} best, ${worst.length} worst` : "all with the same reward";
      place.append(Dom.el("h3", {}, `${source}: ${words}`), gallery);
    }
    if (!place.children.length) place.append(Dom.empty("No rollout was judged."));
  },
};

Report.show(JSON.parse(Dom.byId("data").textContent));
