// The charts. In: a status. Out: four pictures that are drawn again only when something in them changed.
const T = 0, LOSS = 1, BEST = 2, RATE = 3, STALE = 4;
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const number = (x) => (typeof x === "number" && Number.isFinite(x) ? x : null);
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

export class Charts {
  constructor() {
    this.plots = [];
    this.drift = [];
    this.last = null;
    const redo = () => { this.plots.forEach((p) => p.destroy()); this.plots = []; if (this.last) this.draw(this.last); };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redo);
    const resized = new ResizeObserver(() => this.plots.forEach((p) => p.setSize(size(p.root.parentNode))));
    document.querySelectorAll(".plot").forEach((e) => resized.observe(e));
  }

  show(status) {
    const history = status.history ?? [];
    const end = history.length ? history[history.length - 1][T] : 0;
    const key = `${history.length}/${end}`;
    if (key !== this.key) {
      this.key = key;
      this.drift = status.drift_ms ?? [];
      this.last = history;
      this.draw(history);
    }
    calibration(status.calibration ?? []);
  }

  draw(history) {
    const column = (i) => history.map((row) => number(row[i]));
    const t = history.map((row) => row[T]);
    const rate = [t, column(RATE)], stale = [t, column(STALE)], loss = [t, column(LOSS), column(BEST)];
    if (t.length < 2) return empty(["plot-loss", "plot-rate", "plot-staleness"]);
    if (this.plots.length === 0) {
      const accent = css("--accent");
      this.plots = [
        plot("plot-loss", loss, [line("model", accent, 4), { ...line("best", css("--second"), 4), dash: [5, 4] }], lossRange, (x) => x.toFixed(3), () => this.drift),
        plot("plot-rate", rate, [{ ...line("events/s", accent, 0), fill: accent + "22" }], fromZero, compact.format, () => []),
        plot("plot-staleness", stale, [{ ...line("ms", accent, 1), fill: accent + "22" }], fromZero, compact.format, () => []),
      ];
      return undefined;
    }
    [loss, rate, stale].forEach((data, i) => this.plots[i].setData(data));
    return undefined;
  }
}

function size(element) {
  return { width: Math.max(element.clientWidth, 120), height: Math.max(element.clientHeight, 80) };
}

function empty(ids) {
  for (const id of ids) {
    const e = document.getElementById(id);
    if (e.firstChild) continue;
    const note = document.createElement("div");
    note.className = "empty";
    note.textContent = "waiting for samples";
    e.append(note);
  }
}

function line(label, stroke, digits) {
  return { label, stroke, width: 1.6, points: { show: false }, spanGaps: false, value: (_, v) => (v === null ? "–" : v.toFixed(digits)) };
}

/// The first seconds of a model are far worse than the rest: the few worst points may leave the picture at the top.
function lossRange(u) {
  const values = u.data.slice(1).flat().filter((v) => v !== null).sort((a, b) => a - b);
  if (values.length === 0) return [0, 1];
  const low = values[0], high = values[Math.floor((values.length - 1) * 0.985)];
  const room = Math.max((high - low) * 0.12, low * 0.01, 1e-4);
  return [low - room, high + room];
}

function fromZero(u) {
  const values = u.data[1].filter((v) => v !== null);
  return [0, Math.max(1e-3, ...values) * 1.12];
}

function plot(id, data, series, range, format, drift) {
  const at = document.getElementById(id);
  at.replaceChildren();
  const muted = css("--muted"), grid = { stroke: css("--line"), width: 1 }, font = `11px ${css("--font")}`;
  const axis = { stroke: muted, font, grid, ticks: { show: false } };
  return new uPlot({
    ...size(at), ms: 1, padding: [8, 26, 0, 0], series: [{}, ...series], legend: { show: false },
    scales: { x: { time: true }, y: { range: (u) => range(u) } },
    cursor: { y: false, points: { size: 6 } },
    axes: [{ ...axis, size: 24, space: 80, grid: { show: false }, values: times }, { ...axis, size: 46, space: 34, values: (_, v) => v.map(format) }],
    hooks: { drawClear: [(u) => steps(u, drift())] },
    plugins: [tip(series)],
  }, data, at);
}

/// Event time, in UTC: it is the events' own, not this machine's.
function times(_, values) {
  const span = values[values.length - 1] - values[0];
  return values.map((v) => new Date(v).toISOString().slice(...(span > 172800e3 ? [5, 10] : [11, 19])));
}

function steps(u, drift) {
  const { left, top, width, height } = u.bbox;
  u.ctx.save();
  u.ctx.strokeStyle = css("--drift");
  u.ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
  u.ctx.lineWidth = devicePixelRatio;
  for (const ms of drift) {
    const x = Math.round(u.valToPos(ms, "x", true)) + 0.5;
    if (x < left || x > left + width) continue;
    u.ctx.beginPath();
    u.ctx.moveTo(x, top);
    u.ctx.lineTo(x, top + height);
    u.ctx.stroke();
  }
  u.ctx.restore();
}

function tip(series) {
  let box;
  return {
    hooks: {
      init: (u) => { box = document.createElement("div"); box.className = "tip"; box.hidden = true; u.root.parentNode.append(box); },
      destroy: () => box.remove(),
      setCursor: (u) => {
        const i = u.cursor.idx;
        box.hidden = i === null || i === undefined || u.cursor.left < 0;
        if (box.hidden) return;
        const time = new Date(u.data[0][i]).toISOString().slice(11, 19);
        box.textContent = [time, ...series.map((s, n) => `${s.label} ${s.value(u, u.data[n + 1][i])}`)].join("\n");
        const right = u.cursor.left > u.over.clientWidth / 2;
        box.style.top = "10px";
        box.style.left = right ? "" : `${u.over.offsetLeft + u.cursor.left + 12}px`;
        box.style.right = right ? `${u.over.clientWidth - u.cursor.left + 20}px` : "";
      },
    },
  };
}

function calibration(deciles) {
  const at = document.getElementById("plot-calibration");
  const seen = deciles.filter((d) => d.count > 0 && number(d.mean_p) !== null);
  const { width, height } = size(at);
  const key = JSON.stringify([seen, width, height]);
  if (at.dataset.key === key) return;
  at.dataset.key = key;
  if (seen.length === 0) { at.replaceChildren(); return empty(["plot-calibration"]); }
  const left = 30, bottom = 18, side = Math.min(width - left - 8, height - bottom - 8);
  const x0 = left + Math.max(0, (width - left - 8 - side) / 2), y0 = 8 + side;
  const x = (v) => (x0 + v * side).toFixed(1), y = (v) => (y0 - v * side).toFixed(1);
  const most = Math.max(...seen.map((d) => d.count));
  const grid = [0, 0.25, 0.5, 0.75, 1].map((v) =>
    `<path class="grid" d="M${x(0)} ${y(v)}H${x(1)}M${x(v)} ${y(0)}V${y(1)}"/><text x="${x0 - 6}" y="${y(v)}" text-anchor="end" dy="4">${v}</text>` +
    (v ? `<text x="${x(v)}" y="${y0 + 14}" text-anchor="middle">${v}</text>` : "")).join("");
  const dots = seen.map((d) =>
    `<circle class="dot" cx="${x(d.mean_p)}" cy="${y(d.mean_label)}" r="${(2.5 + 6 * Math.sqrt(d.count / most)).toFixed(1)}"><title>predicted ${d.mean_p.toFixed(3)}, observed ${d.mean_label.toFixed(3)}, ${d.count} samples</title></circle>`).join("");
  const path = seen.map((d) => `${x(d.mean_p)} ${y(d.mean_label)}`).join("L");
  at.innerHTML = `<svg role="img" aria-label="mean predicted against observed">${grid}<path class="diagonal" d="M${x(0)} ${y(0)}L${x(1)} ${y(1)}"/><path class="path" d="M${path}"/>${dots}</svg>`;
  return undefined;
}
