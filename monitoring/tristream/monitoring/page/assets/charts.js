// Drawing with Plotly: lines, stacked bars and a heat map. What is off the screen is drawn when it comes into sight.
"use strict";

const MIN_POINTS_TO_SMOOTH = 30;
const MAX_MARK_CHARACTERS = 34;

const Charts = {
  smooth: true,
  marks: [],
  drawings: new Map(),
  visible: new Set(),

  /** Draw into a node now or when it is seen; the newest drawing of a node wins. */
  draw(node, drawing) {
    Charts.drawings.set(node, drawing);
    Charts.observer.observe(node);
    if (Charts.visible.has(node)) Charts.run(node);
  },

  run(node) {
    const { data, layout } = Charts.drawings.get(node)();
    Plotly.react(node, data, layout, { displayModeBar: false, responsive: true });
  },

  redraw() {
    for (const node of Charts.visible) Charts.run(node);
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

  /** Series are `{name, color, x, y, error}`, where color is a function.
   *  Options are `percent`, `free` (zero need not show) and `ticks` (a number format). */
  lines(series, options = {}) {
    const data = series.flatMap((one) => Charts.line(one, options));
    const layout = Charts.layout(options);
    const steps = series.flatMap((one) => one.x);
    // Between few steps Plotly would place marks that read as the same step.
    if (Math.max(...steps) - Math.min(...steps) <= 7) layout.xaxis.dtick = 1;
    return { data, layout: Charts.mark(layout, steps) };
  },

  /** What changed while the run went on, `{at_step, kind, what, text}`: a line at its step in every chart of steps. */
  setMarks(changes) {
    if (JSON.stringify(changes) === JSON.stringify(Charts.marks)) return;
    Charts.marks = changes;
    Charts.redraw();
  },

  mark(layout, steps) {
    const [first, last] = [Math.min(...steps), Math.max(...steps)];
    const byStep = new Map();
    for (const change of [...Charts.marks].reverse()) {
      const step = Math.min(Math.max(change.at_step, first), last);
      byStep.set(step, [...(byStep.get(step) ?? []), change]);
    }
    const color = Theme.color("muted");
    layout.shapes = [...byStep.keys()].map((step) => ({
      type: "line",
      x0: step,
      x1: step,
      yref: "paper",
      y0: 0,
      y1: 1,
      line: { color, width: 1, dash: "dot" },
    }));
    layout.annotations = [...byStep].map(([step, changes]) => ({
      x: step,
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

  line({ name, color, x, y, error }, options) {
    const paint = color();
    const isDot = x.length < 2;
    const trace = {
      type: "scatter",
      name,
      x,
      y,
      mode: isDot || error ? "lines+markers" : "lines",
      line: { color: paint, width: 1.8 },
      marker: { color: paint, size: isDot ? 7 : 5 },
      hovertemplate: options.percent ? "%{y:.1%}" : "%{y:.4~g}",
    };
    if (error) trace.error_y = { type: "data", array: error, color: paint, thickness: 1, width: 3 };
    if (!Charts.smooth || error || x.length < MIN_POINTS_TO_SMOOTH) return [trace];
    const raw = { ...trace, opacity: 0.22, hoverinfo: "skip", hovertemplate: null, line: { color: paint, width: 1 } };
    return [raw, { ...trace, y: Charts.average(y) }];
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
    const data = series.map(({ name, color, x, y }) => {
      const trace = { name, x, y, hovertemplate: "%{y:.3~g} s" };
      if (x.length < MIN_POINTS_TO_SMOOTH) return { ...trace, type: "bar", marker: { color: color() } };
      return { ...trace, type: "scatter", stackgroup: "all", fillcolor: color(), line: { width: 0, shape: "hvh" } };
    });
    const layout = Charts.mark(Charts.layout(), series.flatMap((one) => one.x));
    return { data, layout: { ...layout, barmode: "stack", bargap: 0.1 } };
  },

  heat(rows) {
    const data = [
      {
        type: "heatmap",
        x: rows[0].x,
        y: rows.map((row) => row.name),
        z: rows.map((row) => row.y),
        colorscale: [
          [0, Theme.color("surface")],
          [1, Theme.color("accent")],
        ],
        colorbar: { thickness: 8, outlinewidth: 0, tickfont: { size: 10 } },
        hovertemplate: "%{y}, step %{x}: %{z:.3~g}<extra></extra>",
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
      hoverlabel: { bgcolor: Theme.color("surface"), bordercolor: line, font: { color: Theme.color("ink") } },
      xaxis: {
        gridcolor: "rgba(0,0,0,0)",
        zeroline: false,
        tickformat: "d",
        ticklabelstandoff: 3,
        nticks: 7,
        unifiedhovertitle: { text: "step %{x}" },
      },
      yaxis: {
        gridcolor: line,
        ticklabelstandoff: 3,
        zeroline: false,
        nticks: 5,
        rangemode: options.free ? "normal" : "tozero",
        tickformat: options.percent ? ".2~%" : (options.ticks ?? ".3~g"),
      },
    };
  },
};

Charts.observer = new IntersectionObserver((entries) => Charts.observe(entries), { rootMargin: "200px" });
Theme.onChange(() => Charts.redraw());
