// The picture of the line: a box for each step the program has, joined as rows go.
// In: `line` of a status, steps with their figures and edges between them. Out: boxes in layers with curves behind them;
// figures change in place, and boxes are made anew only when the program has other steps. A box that is chosen tells all.
import { bytes, count, short } from "./app.js";

const LAYERS = [["source"], ["window"], ["view"], ["join"], ["features"], ["learner"], ["publish", "sink"]];
const FREE = ["reading", "pace", "nothing"]; // nothing holds a source up that does these
const SHARE_TOLD = 0.02;

const picture = document.getElementById("line");
const detail = document.getElementById("line-detail");
let boxes = [];
let edges = [];
let key = null;
let chosen = null;
let last = null;

const span = (ms) => {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 120e3) return `${(ms / 1e3).toFixed(1)} s`;
  if (ms < 7200e3) return `${Math.round(ms / 60e3)} min`;
  return ms < 172800e3 ? `${Math.round(ms / 3600e3)} h` : `${Math.round(ms / 86400e3)} d`;
};
const percent = (x) => `${Math.round(x * 100)}%`;
const rate = (x) => (x >= 100 || Number.isInteger(x) ? short(x) : x.toFixed(1)) + "/s";
const sum = (object) => Object.values(object ?? {}).reduce((a, b) => a + b, 0);

function element(name, className, parent) {
  const e = document.createElement(name);
  e.className = className;
  parent?.append(e);
  return e;
}

function put(e, text) {
  if (e.textContent !== text) e.textContent = text;
  e.hidden = text === "";
}

/// Takes a status; without a line in it (a server without a job) there is no picture.
export function showLine(status) {
  const line = status.line;
  document.getElementById("line-panel").hidden = !line?.steps?.length;
  if (!line?.steps?.length) return;
  last = status;
  const now = JSON.stringify([line.steps.map((s) => [s.step, s.name]), line.edges]);
  if (now !== key) {
    key = now;
    edges = line.edges;
    build(line.steps);
  }
  line.steps.forEach((step, i) => fill(boxes[i], step, status));
  draw(line.steps);
  if (chosen !== null) tell(line.steps[chosen]);
}

function build(steps) {
  boxes = [];
  chosen = null;
  detail.hidden = true;
  picture.querySelectorAll(".layer").forEach((e) => e.remove());
  for (const kinds of LAYERS.filter((kinds) => steps.some((s) => kinds.includes(s.step)))) {
    const layer = element("div", "layer", picture);
    steps.forEach((step, i) => { if (kinds.includes(step.step)) boxes[i] = box(step, i, layer); });
  }
}

function box(step, i, layer) {
  const root = element("button", "step", layer);
  root.type = "button";
  root.dataset.step = step.step;
  root.setAttribute("aria-expanded", "false");
  root.onclick = () => choose(i);
  const parts = { root };
  const head = element("span", "head", root);
  element("span", "what", head).textContent = step.step;
  element("span", "name", root).textContent = step.name;
  for (const part of ["in", "out", "pending", "bytes", "water", "late", "dropped", "wait"]) parts[part] = element("span", `fact ${part}`, root);
  parts.histogram = element("span", "histogram", root);
  parts.bar = element("span", "bar", root);
  return parts;
}

function fill(box, step, status) {
  const same = step.in_per_s === step.out_per_s;
  put(box.in, same ? rate(step.in_per_s) : `in ${rate(step.in_per_s)}`);
  put(box.out, same ? "" : `out ${rate(step.out_per_s)}`);
  put(box.pending, step.pending ? `${short(step.pending)} pending` : "");
  put(box.bytes, step.state_bytes ? bytes(step.state_bytes) : "");
  const behind = step.watermark_ms === undefined || !(status.newest_ms >= step.watermark_ms) ? null : status.newest_ms - step.watermark_ms;
  put(box.water, behind === null ? "" : `watermark −${span(behind)}`);
  const late = step.lateness;
  put(box.late, late?.p99_ms ? `99% late ≤ ${span(late.p99_ms)}` : "");
  histogram(box.histogram, late);
  const dropped = sum(step.dropped);
  put(box.dropped, dropped ? `${short(dropped)} dropped` : "");
  const most = Object.entries(step.waits ?? {}).filter(([what]) => !FREE.includes(what)).sort((a, b) => b[1] - a[1])[0];
  put(box.wait, most && most[1] >= SHARE_TOLD ? `${percent(step.back_pressure)} held: ${most[0].replaceAll("_", " ")}` : "");
  box.bar.hidden = !step.waits;
  box.bar.style.setProperty("--share", String(step.back_pressure ?? 0));
  box.root.classList.toggle("held", (step.back_pressure ?? 0) > 0.5);
}

/// Bars by the logarithm of how many: the few that are very late are what one looks for.
function histogram(root, late) {
  const wanted = late?.max_ms ? late.counts : [];
  root.hidden = wanted.length === 0;
  if (root.childElementCount !== wanted.length) root.replaceChildren(...wanted.map(() => document.createElement("i")));
  const top = Math.log1p(Math.max(1, ...wanted));
  wanted.forEach((n, i) => {
    const bar = root.children[i];
    bar.style.height = n ? `${Math.max(8, (100 * Math.log1p(n)) / top).toFixed(0)}%` : "0";
    const bound = i === 0 ? "in order" : i <= late.bounds_ms.length ? `up to ${span(late.bounds_ms[i - 1])} late` : "later";
    bar.title = `${count(n)} ${bound}`;
  });
}

/// Curves from box to box, behind the boxes; where they stand is the style's to say.
function draw(steps) {
  const svg = picture.querySelector("svg");
  const at = picture.getBoundingClientRect();
  if (at.width === 0) return;
  const down = getComputedStyle(picture).flexDirection === "column";
  const places = boxes.map((b) => b.root.getBoundingClientRect());
  const busiest = Math.max(1, ...steps.map((s) => s.out_per_s));
  const wanted = edges.map(([from, to]) => {
    const a = places[from], b = places[to];
    const [x1, y1, x2, y2] = down
      ? [a.left + a.width / 2, a.bottom, b.left + b.width / 2, b.top] : [a.right, a.top + a.height / 2, b.left, b.top + b.height / 2];
    const [X1, Y1, X2, Y2] = [x1 - at.left, y1 - at.top, x2 - at.left, y2 - at.top].map((v) => Math.round(v * 2) / 2);
    const half = down ? (Y2 - Y1) / 2 : (X2 - X1) / 2;
    const d = down ? `M${X1} ${Y1}C${X1} ${Y1 + half} ${X2} ${Y2 - half} ${X2} ${Y2}` : `M${X1} ${Y1}C${X1 + half} ${Y1} ${X2 - half} ${Y2} ${X2} ${Y2}`;
    const share = Math.log1p(steps[from].out_per_s) / Math.log1p(busiest);
    return [d, (1 + 2.5 * share).toFixed(1)];
  });
  const drawn = JSON.stringify(wanted);
  if (svg.dataset.drawn === drawn) return;
  svg.dataset.drawn = drawn;
  svg.setAttribute("viewBox", `0 0 ${at.width} ${at.height}`);
  svg.replaceChildren(...wanted.map(([d, width]) => {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", d);
    path.setAttribute("stroke-width", width);
    return path;
  }));
}

function choose(i) {
  chosen = chosen === i ? null : i;
  boxes.forEach((b, k) => { b.root.setAttribute("aria-expanded", String(k === chosen)); b.root.classList.toggle("chosen", k === chosen); });
  detail.hidden = chosen === null;
  if (chosen !== null) tell(last.line.steps[chosen]);
}

/// Everything known of a step.
function tell(step) {
  const rows = [
    [`in, ${step.in_unit}`, `${count(step.in)} (${rate(step.in_per_s)})`],
    [`out, ${step.out_unit}`, `${count(step.out)} (${rate(step.out_per_s)})`],
    ...Object.entries(step.dropped ?? {}).map(([why, n]) => [`dropped: ${why}`, count(n)]),
  ];
  if (step.pending !== undefined) rows.push([`pending ${step.pending_unit}`, count(step.pending)]);
  rows.push(...Object.entries(step.state ?? {}).map(([what, n]) => [`state: ${what}`, bytes(n)]));
  if (step.watermark_ms !== undefined) rows.push(["watermark", new Date(step.watermark_ms).toISOString().replace("T", " ").slice(0, 23)]);
  const late = step.lateness;
  if (late?.max_ms) rows.push(["lateness: half, 99%, most", [late.p50_ms, late.p99_ms, late.max_ms].map(span).join(", ")]);
  rows.push(...Object.entries(step.waits ?? {}).map(([what, share]) => [`time: ${what.replaceAll("_", " ")}`, percent(share)]));
  rows.push(...(step.notes ?? []));
  const now = JSON.stringify([step.step, step.name, rows]);
  if (detail.dataset.told === now) return;
  detail.dataset.told = now;
  const list = document.createElement("dl");
  for (const [name, value] of rows) {
    const pair = element("div", "", list);
    element("dt", "", pair).textContent = name;
    element("dd", "", pair).textContent = value;
  }
  const title = element("h4", "");
  title.textContent = `${step.step} ${step.name}`;
  detail.replaceChildren(title, list);
}

new ResizeObserver(() => { if (last?.line?.steps) draw(last.line.steps); }).observe(picture);
