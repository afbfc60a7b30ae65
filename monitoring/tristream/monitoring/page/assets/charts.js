// Drawing with Plotly: lines, stacked bars and a heat map. What is off the screen is drawn when it comes into sight.
"use strict";

const MIN_POINTS_TO_SMOOTH = 30;
const MAX_MARK_CHARACTERS = 34;

const Charts = {
  smooth: true,
  marks: [],
  drawings: new Map(),
  visible: new Set(),
  round: 0,

  /** Draw into a node now or when it is seen; the newest drawing of a node wins. */
  draw(node, drawing) {
    Charts.drawings.set(node, drawing);
    Charts.observer.observe(node);
    if (Charts.visible.has(node)) Charts.run(node);
  },

  /** Plotly may come later than the page; what is seen is drawn then. */
  run(node) {
    if (typeof Plotly === "undefined") return;
    const { data, layout } = Charts.drawings.get(node)();
    const isNew = !node.classList.contains("js-plotly-plot");
    Plotly.react(node, data, layout, { displayModeBar: false, responsive: true });
    if (isNew) Charts.listen(node);
  },

  /** A zoom of one chart is a zoom of all; a click on a point asks what happened there. */
  listen(node) {
    node.on("plotly_relayout", (change) => {
      if (change["xaxis.autorange"]) Axis.zoom(null);
      else if (change["xaxis.range[0]"] !== undefined) Axis.zoom([change["xaxis.range[0]"], change["xaxis.range[1]"]]);
    });
    node.on("plotly_click", ({ points, event }) => {
      const known = points.filter((point) => point.customdata !== undefined);
      const top = node.getBoundingClientRect().top;
      const distance = (point) => Math.abs(event.clientY - top - point.yaxis._offset - point.yaxis.d2p(point.y));
      const nearest = known.sort((one, other) => distance(one) - distance(other))[0];
      const drawing = Charts.drawings.get(node);
      if (nearest && drawing.onPoint) drawing.onPoint(nearest.customdata, nearest.data.meta);
    });
  },

  /** One chart a frame, so that the page answers meanwhile. */
  redraw() {
    const waiting = [...Charts.visible];
    Charts.round += 1;
    const round = Charts.round;
    const next = () => {
      if (round !== Charts.round || !waiting.length) return;
      Charts.run(waiting.shift());
      window.requestAnimationFrame(next);
    };
    next();
  },

  observe(entries) {
    for (const entry of entries) {
      if (!entry.isIntersecting) Charts.visible.delete(entry.target);
      else if (!Charts.visible.has(entry.target)) {
        Charts.visible.add(entry.target);
        Charts.run(entry.target);
      }
    }
  },

  /** Series are `{name, color, x, y, low, high, error, dashed, axes}`, where x are steps and color is a function.
   *  Options are `percent`, `free` (zero need not show) and `ticks` (a number format). */
  lines(series, options = {}) {
    const data = series.flatMap((one) => Charts.line(one, options));
    const layout = Charts.layout(options);
    const steps = series.flatMap((one) => one.x);
    const [first, last] = Charts.ends(steps);
    // Between few steps Plotly would place marks that read as the same step.
    if (Axis.kind === "step" && last - first <= 7) layout.xaxis.dtick = 1;
    return { data, layout: Charts.mark(layout, steps) };
  },

  ends(steps) {
    return steps.reduce(([low, high], step) => [Math.min(low, step), Math.max(high, step)], [Infinity, -Infinity]);
  },

  /** What changed while the run went on, `{at_step, kind, what, text}`: a line at its step in every chart of steps. */
  setMarks(changes) {
    if (JSON.stringify(changes) === JSON.stringify(Charts.marks)) return;
    Charts.marks = changes;
    Charts.redraw();
  },

  mark(layout, steps) {
    const [first, last] = Charts.ends(steps);
    const byStep = new Map();
    const isShown = ({ at_step: step }) => !Axis.shown || (step >= Axis.shown[0] && step <= Axis.shown[1]);
    for (const change of [...Charts.marks].reverse().filter(isShown)) {
      const step = Math.min(Math.max(change.at_step, first), last);
      byStep.set(step, [...(byStep.get(step) ?? []), change]);
    }
    const color = Theme.color("muted");
    layout.shapes = [...byStep.keys()].map((step) => ({
      type: "line",
      x0: Axis.at(step),
      x1: Axis.at(step),
      yref: "paper",
      y0: 0,
      y1: 1,
      line: { color, width: 1, dash: "dot" },
    }));
    layout.annotations = [...byStep].map(([step, changes]) => ({
      x: Axis.at(step),
      xanchor: "left",
      yref: "paper",
      y: 1,
      yanchor: "top",
      textangle: 90,
      showarrow: false,
      font: { size: 9, color },
      text: Format.label([...new Set(changes.map((change) => change.what))].join(", "), MAX_MARK_CHARACTERS),
      hovertext: changes.map((change) => Format.label(change.text, 200)).join("<br>"),
    }));
    return layout;
  },

  line({ name, color, x: steps, y, low, high, error, dashed, axes, source }, options) {
    const paint = color();
    const x = steps.map((step) => Axis.at(step, axes));
    const isDot = x.length < 2;
    const value = options.percent ? "%{y:.1%}" : "%{y:.4~g}";
    const trace = {
      type: "scatter",
      name,
      x,
      y,
      customdata: steps,
      meta: source,
      mode: isDot || error ? "lines+markers" : "lines",
      line: { color: paint, width: dashed ? 1.5 : 1.8, dash: dashed ? "dash" : "solid" },
      marker: { color: paint, size: isDot ? 7 : 5 },
      hovertemplate: Axis.kind === "step" ? value : `${value}, step %{customdata}`,
    };
    if (error) trace.error_y = { type: "data", array: error, color: paint, thickness: 1, width: 3 };
    if (error || x.length < MIN_POINTS_TO_SMOOTH) return [trace];
    const band = low && !dashed ? [Charts.band(x, low, high, paint)] : [];
    if (!Charts.smooth) return [...band, trace];
    const smooth = { ...trace, y: Charts.average(y) };
    if (low || dashed) return [...band, smooth];
    const raw = { ...trace, opacity: 0.22, hoverinfo: "skip", hovertemplate: null, line: { color: paint, width: 1 } };
    return [raw, smooth];
  },

  /** From the least to the largest value of the steps of each point. */
  band(x, low, high, paint) {
    const known = x.map((_, index) => index).filter((index) => low[index] !== null);
    const back = [...known].reverse();
    return {
      type: "scatter",
      mode: "lines",
      x: [...known, ...back].map((index) => x[index]),
      y: [...known.map((index) => high[index]), ...back.map((index) => low[index])],
      fill: "toself",
      fillcolor: paint,
      opacity: 0.12,
      line: { width: 0 },
      hoverinfo: "skip",
    };
  },

  /** Exponential moving average over about a twentieth of the points, without the pull of its start. */
  average(values) {
    const decay = 1 - 2 / (Math.max(5, values.length / 20) + 1);
    let sum = 0;
    let weight = 0;
    return values.map((value) => {
      if (value === null) return null;
      sum = decay * sum + value;
      weight = decay * weight + 1;
      return sum / weight;
    });
  },

  /** Bars, or areas where bars would be too thin. */
  stack(series) {
    const data = series.map(({ name, color, x: steps, y }) => {
      const x = steps.map((step) => Axis.at(step));
      const trace = { name, x, y, hovertemplate: "%{y:.3~g} s" };
      if (x.length < MIN_POINTS_TO_SMOOTH) return { ...trace, type: "bar", marker: { color: color() } };
      return { ...trace, type: "scatter", stackgroup: "all", fillcolor: color(), line: { width: 0, shape: "hvh" } };
    });
    const layout = Charts.mark(
      Charts.layout(),
      series.flatMap((one) => one.x),
    );
    return { data, layout: { ...layout, barmode: "stack", bargap: 0.1 } };
  },

  heat(rows) {
    const data = [
      {
        type: "heatmap",
        x: rows[0].x.map((step) => Axis.at(step)),
        y: rows.map((row) => row.name),
        z: rows.map((row) => row.y),
        colorscale: [
          [0, Theme.color("surface")],
          [1, Theme.color("accent")],
        ],
        colorbar: { thickness: 8, outlinewidth: 0, tickfont: { size: 10 } },
        hovertemplate: "%{y}, %{x}: %{z:.3~g}<extra></extra>",
      },
    ];
    const layout = Charts.layout();
    layout.yaxis = { ...layout.yaxis, automargin: true, showgrid: false, tickfont: { size: 10 } };
    return { data, layout: { ...layout, hovermode: "closest" } };
  },

  layout(options = {}) {
    const line = Theme.color("line");
    return {
      margin: { l: 44, r: 6, t: 8, b: 26 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 11, color: Theme.color("muted") },
      showlegend: false,
      hovermode: "x unified",
      // A finger that scrolls does not zoom.
      dragmode: window.matchMedia("(pointer: coarse)").matches ? false : "zoom",
      hoverlabel: { bgcolor: Theme.color("surface"), bordercolor: line, font: { color: Theme.color("ink") } },
      xaxis: {
        gridcolor: "rgba(0,0,0,0)",
        zeroline: false,
        ticklabelstandoff: 3,
        nticks: 7,
        ...Axis.layout(),
      },
      yaxis: {
        gridcolor: line,
        ticklabelstandoff: 3,
        zeroline: false,
        nticks: 5,
        fixedrange: true,
        rangemode: options.free ? "normal" : "tozero",
        tickformat: options.percent ? ".2~%" : (options.ticks ?? ".3~g"),
      },
    };
  },
};

Charts.observer = new IntersectionObserver((entries) => Charts.observe(entries), { rootMargin: "200px" });
Theme.onChange(() => Charts.redraw());
Axis.onChange(() => Charts.redraw());
window.addEventListener("load", () => Charts.redraw());
