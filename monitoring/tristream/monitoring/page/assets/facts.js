// Facts in figures and tables: where the run stands, what became of the groups, verifiers, time by phase.
"use strict";

const Facts = {
  figures(list) {
    return list.map(([title, value, small, isBad]) =>
      Dom.el(
        "div",
        { class: "card" },
        Dom.el("dt", {}, title),
        Dom.el("dd", { class: isBad ? "bad" : null }, value, small ? Dom.el("small", {}, small) : null),
      ),
    );
  },

  /** Trained, pending and dropped groups: one bar with its legend. */
  groups({ dispatched, used, trained, pending, dropped }) {
    const reasons = Object.entries(dropped).map(([reason, number]) => [`dropped: ${Format.words(reason)}`, number]);
    const inFlight = Math.max(0, (used ?? trained) - trained);
    const parts = [
      ["trained", trained],
      ["trained, not yet durable", inFlight],
      ["pending", pending - inFlight],
      ...reasons,
    ];
    const colors = ["var(--good)", "var(--source-6)", "var(--muted)", "var(--warn)", "var(--bad)", "var(--source-4)"];
    const color = (index) => colors[Math.min(index, colors.length - 1)];
    const shown = parts.map(([name, number], index) => [name, number, color(index)]).filter(([, number]) => number > 0);
    const share = ([name, number, paint]) =>
      Dom.el("div", {
        title: `${name}: ${number}`,
        style: { background: paint, width: `${(100 * number) / dispatched}%` },
      });
    const rows = shown.map(([name, number, paint]) => [
      Dom.el("span", { class: "source" }, Dom.el("span", { class: "dot", style: { background: paint } }), name),
      Format.count(number),
      Format.percent(number / dispatched),
    ]);
    const columns = [["training groups"], [`${Format.count(dispatched)} dispatched`, "number"], ["share", "number"]];
    return [Dom.el("div", { class: "shares" }, shown.map(share)), Dom.table(columns, rows)];
  },

  verifiers(rows) {
    const columns = [
      ["verifier"],
      ["mode"],
      ["scored", "number"],
      ["unscorable", "number"],
      ["timeout", "number"],
      ["error", "number"],
      ["score p50", "number"],
      ["score p95", "number"],
      ["queued p95", "number"],
      ["processes", "number"],
      ["restarts", "number"],
    ];
    const trouble = (number) => Dom.el("span", { class: number ? "bad" : "muted" }, Format.count(number ?? 0));
    const cells = rows.map((row) => [
      Dom.el("span", {}, row.verifier, Dom.el("span", { class: "muted" }, ` ${row.version}`)),
      Format.words(row.mode),
      Format.count(row.num_scored ?? 0),
      trouble(row.num_unscorable),
      trouble(row.num_timeout),
      trouble(row.num_error),
      Format.seconds(row.score_seconds_p50),
      Format.seconds(row.score_seconds_p95),
      Format.seconds(row.queued_seconds_p95),
      Format.count(row.num_processes),
      trouble(row.num_restarts),
    ]);
    return Dom.table(columns, cells);
  },

  /** What changed while the run went on, the newest first. */
  changes(rows) {
    const columns = [["change"], ["step", "number"], ["from prompt", "number"], ["time"], ["reason"]];
    const cells = rows.map((row) => [
      row.text,
      Format.count(row.at_step),
      row.kind === "extend" ? NOTHING : Format.count(row.from_number),
      Dom.el("span", { class: "muted" }, new Date(row.created_ms).toLocaleTimeString()),
      Dom.el("span", { class: "muted" }, row.reason),
    ]);
    return Dom.table(columns, cells);
  },

  /** Rows `[name, seconds]` with a bar each, relative to the longest. */
  phases(title, rows) {
    const longest = Math.max(...rows.map(([, seconds]) => seconds), 1e-9);
    const bar = (seconds) => Dom.el("div", { class: "bar", style: { width: `${(100 * seconds) / longest}%` } });
    const cells = rows.map(([name, seconds]) => [Format.words(name), bar(seconds), Format.seconds(seconds)]);
    return Dom.table([[title], ["", "bar-cell"], ["time", "number"]], cells);
  },
};
