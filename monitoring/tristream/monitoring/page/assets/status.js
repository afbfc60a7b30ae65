// The head of the live page, and what each part does and waits for.
"use strict";

const Status = {
  showHead(overview, curves) {
    const { step, settings } = overview;
    const total = step.total_steps || settings.total_steps;
    const left = Math.max(0, total - step.step);
    const percent = (100 * step.step) / total;
    Dom.byId("progress-bar").style.width = `${percent}%`;
    const words = [
      Dom.el("span", {}, Dom.el("b", {}, `step ${step.step}`), ` of ${total}`),
      Dom.el("span", {}, `${percent.toFixed(0)} %`),
    ];
    if (left && overview.step_seconds) {
      words.push(Dom.el("span", {}, `${Format.seconds(left * overview.step_seconds)} left`));
      words.push(Dom.el("span", {}, `${Format.seconds(overview.step_seconds)} a step`));
    }
    words.push(Dom.el("span", {}, `model ${settings.model}`));
    Dom.show(Dom.byId("progress-words"), words);
    Dom.show(Dom.byId("figures"), Facts.figures(Status.figures(overview, curves)));
  },

  figures({ step, work, groups, settings, num_dead_letters: numDeadLetters }, curves) {
    const isBusy = work.tokens_per_second > 0;
    const numDropped = Object.values(groups.dropped).reduce((sum, number) => sum + number, 0);
    const reward = curves ? Facts.newestReward(curves.sources) : null;
    return [
      ["reward", Format.fixed(reward), "all judged, newest step"],
      [
        "tokens per second",
        Format.count(isBusy ? work.tokens_per_second : work.mean_tokens_per_second),
        isBusy ? "last minute" : "whole run",
      ],
      ["rollouts", Format.count(work.num_rollouts), `${Format.count(work.num_tokens)} tokens with held-out`],
      ["largest age", step.num_steps ? String(step.max_age) : NOTHING, `at most ${settings.max_staleness}`],
      ["groups trained", Format.count(groups.trained), `of ${Format.count(groups.dispatched)} dispatched`],
      ["groups pending", Format.count(groups.pending), `${Format.count(groups.used - groups.trained)} not yet durable`],
      ["groups dropped", Format.count(numDropped), Status.reasons(groups.dropped)],
      [
        "dead letters",
        Format.count(numDeadLetters),
        numDeadLetters ? "see table dead_letters" : "none",
        numDeadLetters > 0,
      ],
    ];
  },

  reasons(dropped) {
    const entries = Object.entries(dropped);
    return entries.length ? entries.map(([reason, number]) => `${number} ${Format.words(reason)}`).join(", ") : "none";
  },

  /** A row a process; where a part has several, each says which it is. */
  showParts({ parts }) {
    const columns = [["part"], ["state"], ["waits for"], ["version", "number extra"], ["last word", "number extra"]];
    const count = (name) => parts.filter(({ part }) => part === name).length;
    const rows = parts.map((one) => [
      Dom.el(
        "span",
        { title: one.address || one.instance },
        one.part,
        count(one.part) > 1 ? Dom.el("small", { class: "instance muted" }, one.instance) : null,
      ),
      Dom.el("span", { class: `state state-${one.state.replaceAll(" ", "-")}` }, one.state),
      Dom.el("span", { class: "muted" }, one.waiting_for || NOTHING),
      one.measures.version === undefined ? "" : String(one.measures.version),
      one.instance
        ? Dom.el("span", { class: "muted" }, `${Format.seconds(Math.max(1, Math.round(one.told_seconds)))} ago`)
        : "",
    ]);
    Dom.show(Dom.byId("parts"), Dom.table(columns, rows));
  },

  /** What the named parts do or wait for, in words, for places that are still empty. */
  waits({ parts }, names) {
    return names.map((name) => Status.wait(name, parts.filter(({ part }) => part === name))).join(", ");
  },

  /** Such as "the producer waits for prompts", or "the producer (2 of 3) waits for prompts". */
  wait(name, processes) {
    const phrases = processes.map(Status.phrase);
    const phrase = phrases.find((words) => words.startsWith("waits")) ?? phrases[0];
    const number = phrases.filter((words) => words === phrase).length;
    return phrases.length > 1 ? `the ${name} (${number} of ${phrases.length}) ${phrase}` : `the ${name} ${phrase}`;
  },

  phrase({ state, waiting_for: reason }) {
    if (state === "silent" || state === "done") return `is ${state}`;
    return reason ? `waits for ${reason}` : `is ${state === "ready" ? "at work" : state}`;
  },

  showState(overview, status) {
    const total = overview.step.total_steps || overview.settings.total_steps;
    const isDone = status.parts.some((part) => part.part === "dispatcher" && part.state === "done");
    const [word, kind] = isDone
      ? ["done", "good"]
      : overview.step.step >= total
        ? ["evaluating", "warn"]
        : overview.step.num_steps
          ? ["training", "good"]
          : ["starting", "warn"];
    Dom.show(Dom.byId("state"), Dom.el("span", { class: `pill ${kind}` }, word));
  },
};
