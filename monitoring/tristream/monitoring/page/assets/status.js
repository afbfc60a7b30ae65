// The head of the live page, and what each part does and waits for.
"use strict";

const Status = {
  /** `groups` may come later than the head. */
  showHead(head, groups) {
    const { step, settings } = head;
    const total = step.total_steps || settings.total_steps;
    const left = Math.max(0, total - step.step);
    const percent = Math.min(100, (100 * step.step) / total);
    Dom.byId("progress-bar").style.width = `${percent}%`;
    const words = [
      Dom.el("span", {}, Dom.el("b", {}, `step ${step.step}`), ` of ${total}`),
      Dom.el("span", {}, `${percent.toFixed(0)} %`),
    ];
    if (left && head.step_seconds) {
      words.push(Dom.el("span", {}, `${Format.seconds(left * head.step_seconds)} left`));
      words.push(Dom.el("span", {}, `${Format.seconds(head.step_seconds)} a step`));
    }
    words.push(Dom.el("span", {}, `model ${settings.model}`));
    Dom.show(Dom.byId("progress-words"), words);
    Dom.show(Dom.byId("figures"), Facts.figures(Status.figures(head, groups)));
  },

  figures({ step, work, reward, settings, num_dead_letters: numDeadLetters }, groups) {
    const isBusy = work.tokens_per_second > 0;
    return [
      ["reward", Format.fixed(reward), "all judged rollouts, newest step"],
      [
        "tokens per second",
        Format.count(isBusy ? work.tokens_per_second : work.mean_tokens_per_second),
        isBusy ? "last minute" : "whole run",
      ],
      ["rollouts", Format.count(work.num_rollouts), `${Format.count(work.num_tokens)} tokens, with held-out`],
      ["largest age", step.num_steps ? String(step.max_age) : NOTHING, `at most ${settings.max_staleness}`],
      ...Status.groupFigures(groups),
      [
        "dead letters",
        Format.count(numDeadLetters),
        numDeadLetters ? "see table dead_letters" : "none",
        numDeadLetters > 0,
      ],
    ];
  },

  groupFigures(groups) {
    if (!groups) return ["trained", "pending", "dropped"].map((word) => [`groups ${word}`, NOTHING, "asking"]);
    const numDropped = Object.values(groups.dropped).reduce((sum, number) => sum + number, 0);
    return [
      ["groups trained", Format.count(groups.trained), `of ${Format.count(groups.dispatched)} dispatched`],
      ["groups pending", Format.count(groups.pending), `${Format.count(groups.used - groups.trained)} not yet durable`],
      ["groups dropped", Format.count(numDropped), Status.reasons(groups.dropped)],
    ];
  },

  reasons(dropped) {
    const entries = Object.entries(dropped);
    return entries.length ? entries.map(([reason, number]) => `${number} ${Format.words(reason)}`).join(", ") : "none";
  },

  /** A row a process; where a part has several, or a run several machines, each says which it is. */
  showParts({ parts }) {
    const hosts = new Set(parts.map(({ host }) => host).filter(Boolean));
    const count = (name) => parts.filter(({ part }) => part === name).length;
    const name = (one) => {
      const place = count(one.part) > 1 ? one.instance : hosts.size > 1 ? one.host : "";
      const small = place ? Dom.el("small", { class: "instance muted" }, place) : null;
      return Dom.el("span", { title: [one.instance, one.address].filter(Boolean).join(" ") }, one.part, small);
    };
    const told = (one) => (one.instance ? `${Format.seconds(Math.max(1, Math.round(one.told_seconds)))} ago` : "");
    const columns = [
      [["part"], name],
      [["state"], (one) => Dom.el("span", { class: `state state-${one.state.replaceAll(" ", "-")}` }, one.state)],
      [["waits for"], (one) => Dom.el("span", { class: "muted" }, one.waiting_for || NOTHING)],
      [["version", "number extra"], ({ measures }) => (measures.version === undefined ? "" : String(measures.version))],
      [["lag", "number"], Status.lag],
      [["CPU", "number extra"], ({ num_cores: cores }) => (cores === null ? "" : cores.toFixed(2))],
      [["memory", "number extra"], ({ measures }) => Format.bytes(measures.memory_bytes)],
      [["GPU memory", "number extra"], ({ measures }) => Format.bytes(measures.gpu_memory_bytes)],
      [["last word", "number extra"], (one) => Dom.el("span", { class: "muted" }, told(one))],
    ];
    const cells = columns.map(([title, cell]) => [title, parts.map(cell)]);
    const shown = cells.filter(([[title], values]) => title === "waits for" || values.some((value) => value !== ""));
    const rows = parts.map((_, index) => shown.map(([, values]) => values[index]));
    Dom.show(
      Dom.byId("parts"),
      Dom.table(
        shown.map(([title]) => title),
        rows,
      ),
    );
  },

  /** Records that a part has not read yet, with those of each topic on hover. */
  lag({ measures }) {
    const lags = Object.entries(measures).filter(([name]) => name.startsWith("lag_"));
    if (!lags.length) return "";
    const total = lags.reduce((sum, [, number]) => sum + number, 0);
    const title = lags.map(([name, number]) => `${name.slice(4)}: ${Format.count(number)}`).join(", ");
    return Dom.el("span", { title: `records not read yet; ${title}` }, Format.count(total));
  },

  /** What the named parts do or wait for, in words, for places that are still empty. */
  waits({ parts }, names) {
    return names
      .map((name) =>
        Status.wait(
          name,
          parts.filter(({ part }) => part === name),
        ),
      )
      .join(", ");
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

  showState(head, status) {
    const total = head.step.total_steps || head.settings.total_steps;
    const isDone = status.parts.some((part) => part.part === "dispatcher" && part.state === "done");
    const [word, kind] = isDone
      ? ["done", "good"]
      : head.step.step >= total
        ? ["evaluating", "warn"]
        : head.step.num_steps
          ? ["training", "good"]
          : ["starting", "warn"];
    Dom.show(Dom.byId("state"), Dom.el("span", { class: `pill ${kind}` }, word));
  },
};
