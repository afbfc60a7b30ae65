// Grids of small charts: one a metric with a line a source, one a source with a line a component, the learner's.
"use strict";

// Each panel: the key of the data, a title, what the number is, and how its axis reads.
const LEARNER_PANELS = [
  { key: "loss", title: "Loss", free: true },
  { key: "grad_norm", title: "Gradient norm", note: "before clipping" },
  { key: "learning_rate", title: "Learning rate", ticks: ".1~e" },
  { key: "tokens_per_second", title: "Training speed", note: "completion tokens per second" },
  { key: "model_flops_utilisation", title: "Use of the device", note: "share of its peak FLOPs", percent: true },
  { key: "effective_sample_size", title: "Effective sample size", note: "share of trained tokens", percent: true },
  { key: "ratio_tail_share", title: "Ratio tail", note: "tokens beyond 2 or below 1/2", percent: true },
  { key: "skipped_updates", title: "Skipped updates", note: "a number was not finite" },
];

/** What verifiers say, by kind; the last two are of verifier versions. */
const KINDS = {
  component: "components",
  weighted: "weighted",
  metric: "metrics",
  shadow: "shadows",
  threshold: "threshold",
  unscored: "not scored",
};

const Curves = {
  hidden: new Set(),
  newest: null,
  /** Curves of another run, drawn dashed beside: `{run, curves}`. */
  other: null,
  kind: "component",
  /** What a click on a point of a source does, with its step and source. */
  onPoint: null,

  /** Show curves in the places that the document has for them; what is not among them stays. */
  show(curves) {
    const sources = { ...Curves.newest?.sources, ...curves.sources };
    Curves.newest = { ...Curves.newest, ...curves, sources };
    Axis.setTable(curves.axes);
    if (curves.sources) Curves.showSources(Curves.newest);
    if (curves.components) Curves.showComponents();
    if (curves.metrics) Curves.showLearner(curves);
  },

  showSources({ panels, sources }) {
    const find = (panel) => Curves.bySource(panel.key, sources[panel.key] ?? {});
    const draws = (panel) => ({ ...panel, ofSources: true });
    Curves.panels(Dom.byId("source-curves"), panels.main.map(draws), find);
    Curves.panels(Dom.byId("more-source-curves"), panels.more.map(draws), find, true);
  },

  bySource(key, curves) {
    const names = Theme.sources.filter((name) => !Curves.hidden.has(name));
    const series = (found, more = {}) =>
      names
        .filter((name) => found[name])
        .map((name) => ({ name, source: name, color: () => Theme.sourceColor(name), ...found[name], ...more }));
    const { run, curves: other } = Curves.other ?? {};
    const beside = series(other?.sources?.[key] ?? {}, { dashed: true, axes: other?.axes });
    return [...series(curves), ...beside.map((one) => ({ ...one, name: `${one.name} (${run})` }))];
  },

  showComponents() {
    const { components, kinds } = Curves.newest;
    const byKind = { component: components, ...kinds };
    const known = Object.keys(KINDS).filter((kind) => byKind[kind] && Object.keys(byKind[kind]).length);
    if (!known.includes(Curves.kind)) Curves.kind = known[0] ?? "component";
    const button = (kind) => {
      const choose = () => {
        Curves.kind = kind;
        Curves.showComponents();
      };
      return Dom.el(
        "button",
        { type: "button", "aria-pressed": String(kind === Curves.kind), onclick: choose },
        KINDS[kind],
      );
    };
    Dom.show(Dom.byId("component-kinds"), known.length > 1 ? known.map(button) : []);
    const shown = byKind[Curves.kind] ?? {};
    const panels = Theme.sources
      .filter((name) => shown[name])
      .map((name) => ({
        key: `${Curves.kind} ${name}`,
        source: name,
        title: name,
        note: KINDS[Curves.kind],
        keys: true,
      }));
    Curves.panels(Dom.byId("component-curves"), panels, (panel) => Curves.byName(shown[panel.source]));
  },

  byName(curves) {
    return Object.entries(curves).map(([name, curve], index) => ({ name, color: () => Theme.nth(index), ...curve }));
  },

  showLearner({ metrics, phase_seconds: phases, max_age: maxAge }) {
    const age = { key: "max_age", title: "Largest age", note: "policy versions" };
    const time = {
      key: "phases",
      title: "Seconds of a step",
      note: "by phase",
      keys: true,
      wide: true,
      draw: Charts.stack,
    };
    const known = LEARNER_PANELS.filter((panel) => metrics[panel.key]);
    const find = (panel) => {
      if (panel === time) return Curves.byName(phases);
      const curve = panel === age ? maxAge : metrics[panel.key];
      return [{ name: panel.title, color: () => Theme.color("accent"), ...curve }];
    };
    Curves.panels(Dom.byId("learner-curves"), [...known.slice(0, 3), age, time, ...known.slice(3)], find);
    const others = Object.keys(metrics).filter((key) => !known.some((panel) => panel.key === key));
    const more = others.map((key) => ({ key, title: Format.words(key), free: true }));
    Curves.panels(Dom.byId("more-learner-curves"), more, find);
  },

  showLayers(layers) {
    const rows = Object.entries(layers).map(([name, curve]) => ({ name, ...curve }));
    const panel = { key: "layers", title: "Gradient norm by layer", wide: true, draw: Charts.heat };
    Curves.panels(Dom.byId("layer-curves"), rows.length ? [panel] : [], () => rows);
  },

  /** One figure a panel; figures stay when they are shown again, and those without any value are left out.
   *  Where a `details` asks for its curves when it is opened, it shows before it has any. */
  panels(grid, panels, find, isLazy = false) {
    const found = panels.map((panel) => [panel, find(panel)]);
    const full = found.filter(([, series]) => series.some((one) => one.y.some((value) => value !== null)));
    const known = new Map([...grid.children].map((figure) => [figure.dataset.key, figure]));
    const figures = full.map(([panel]) => known.get(panel.key) ?? Curves.figure(panel));
    if (figures.some((figure, index) => grid.children[index] !== figure) || figures.length !== grid.children.length) {
      grid.replaceChildren(...figures);
    }
    full.forEach(([panel, series], index) => Curves.update(figures[index], panel, series));
    const owner = grid.closest("details");
    if (owner) owner.hidden = !figures.length && !isLazy;
  },

  figure({ key, title, note, meaning, wide }) {
    const figure = Dom.el("figure", { class: wide ? "card wide" : "card" });
    const words = Dom.el("span", { class: "figure-note" }, note ?? "");
    const save = Export.button(() => Export.figure(key, figure.series));
    const caption = Dom.el("figcaption", { title: meaning ?? null }, title, words, save);
    figure.dataset.key = key;
    figure.append(caption, Dom.el("div", { class: "plot" }), Dom.el("div", { class: "keys" }));
    return figure;
  },

  update(figure, panel, series) {
    const draw = panel.draw ?? Charts.lines;
    const drawing = () => draw(series, panel);
    if (panel.ofSources) drawing.onPoint = (step, source) => Curves.onPoint?.(step, source);
    figure.series = series;
    Charts.draw(figure.querySelector(".plot"), drawing);
    const key = ({ name }, index) =>
      Dom.el(
        "span",
        {},
        Dom.el("span", { class: "dot", style: { background: `var(--source-${index % NUM_COLORS})` } }),
        name,
      );
    Dom.show(figure.querySelector(".keys"), panel.keys ? series.map(key) : []);
  },

  /** Buttons that hide and show a source, and one for smoothing. */
  showLegend(place) {
    const buttons = Theme.sources.map((name) =>
      Dom.el(
        "button",
        {
          type: "button",
          "aria-pressed": !Curves.hidden.has(name) ? "true" : "false",
          onclick: (event) => Curves.toggle(event.currentTarget, name),
        },
        Theme.sourceName(name),
      ),
    );
    const smooth = Dom.el(
      "button",
      {
        type: "button",
        "aria-pressed": "true",
        class: "right",
        title: "Moving average of curves with many points",
        onclick: (event) => Curves.toggleSmooth(event.currentTarget),
      },
      "smooth",
    );
    Dom.show(place, buttons, smooth);
    if (Theme.sources.length > NUM_COLORS) place.append(Dom.el("small", { class: "muted" }, "colours repeat"));
  },

  toggle(button, name) {
    if (!Curves.hidden.delete(name)) Curves.hidden.add(name);
    button.setAttribute("aria-pressed", String(!Curves.hidden.has(name)));
    if (Curves.newest) Curves.showSources(Curves.newest);
  },

  toggleSmooth(button) {
    Charts.smooth = !Charts.smooth;
    button.setAttribute("aria-pressed", String(Charts.smooth));
    Charts.redraw();
  },
};
