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
      ["reward", Format.fixed(reward), "newest step"],
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

  showParts({ parts, writer, now }) {
    const columns = [["part"], ["state"], ["waits for"], ["version", "number extra"], ["last word", "number extra"]];
    const rows = parts.map((part) => [
      part.part,
      Dom.el("span", { class: `state state-${part.state.replaceAll(" ", "-")}` }, part.state),
      Dom.el("span", { class: "muted" }, part.waiting_for || NOTHING),
      part.version === undefined ? "" : String(part.version),
      part.time
        ? Dom.el("span", { class: "muted" }, `${Format.seconds(Math.max(1, Math.round(now - part.time)))} ago`)
        : "",
    ]);
    const facts = Object.entries(writer)
      .map(([name, value]) => `${Format.words(name)} ${value}`)
      .join(", ");
    const words = facts ? Dom.el("p", { class: "below muted" }, `writer: ${facts}`) : null;
    Dom.show(Dom.byId("parts"), Dom.table(columns, rows), words);
  },

  /** What the named parts wait for, in words, for places that are still empty. */
  waits({ parts }, names) {
    const words = ({ part, state, waiting_for: reason }) =>
      reason ? `the ${part} waits for ${reason}` : `the ${part} is ${state === "ready" ? "at work" : state}`;
    return parts
      .filter(({ part }) => names.includes(part))
      .map(words)
      .join(", ");
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
