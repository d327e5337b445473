// The page: takes the status as it comes, puts it on the screen, and lets an operator change what is live.
// In: GET /v1/events (a status every quarter of a second). Errors are shown where they happen and never swallowed.
// Where the server asks for tokens, so does the page; a token stays in this tab (sessionStorage) and goes in a header only.
import { Charts } from "./charts.js";
import { startFeed } from "./feed.js";
import { showLine } from "./line.js";
import { showRollout } from "./rollout.js";

const $ = (id) => document.getElementById(id);
const put = (id, text) => { const e = $(id); if (e.textContent !== text) e.textContent = text; };
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const isNumber = (x) => typeof x === "number" && Number.isFinite(x);

export const fixed = (x, digits) => (isNumber(x) ? x.toFixed(digits) : "–");
export const count = (x) => (isNumber(x) ? whole.format(x) : "–");
export const short = (x) => {
  if (!isNumber(x)) return "–";
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (x >= size) return (x / (unit === "k" ? 1e3 : size)).toPrecision(3) + " " + unit;
  }
  return count(x);
};
export const bytes = (x) => {
  if (!isNumber(x)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  while (x >= 1024 && i < units.length - 1) { x /= 1024; i += 1; }
  return (i && x < 10 ? x.toFixed(1) : Math.round(x)) + " " + units[i];
};
const age = (ms) => {
  const s = Math.max(0, (Date.now() - ms) / 1000);
  if (s < 60) return Math.floor(s) + " s";
  if (s < 3600) return Math.floor(s / 60) + " min";
  return s < 86400 ? Math.floor(s / 3600) + " h" : Math.floor(s / 86400) + " d";
};

/// Shows an error until it is dismissed; the same one twice is shown once, with its number.
export function alert(message) {
  const there = [...$("alerts").children].find((e) => e.dataset.message === message);
  if (there) {
    there.dataset.times = Number(there.dataset.times) + 1;
    there.firstChild.textContent = `${message} (${there.dataset.times} times)`;
    return;
  }
  const line = document.createElement("div");
  const text = document.createElement("span");
  const dismiss = document.createElement("button");
  line.className = "alert";
  line.dataset.message = message;
  line.dataset.times = "1";
  text.textContent = message;
  dismiss.textContent = "dismiss";
  dismiss.onclick = () => line.remove();
  line.append(text, dismiss);
  $("alerts").append(line);
  if ($("alerts").children.length > 4) $("alerts").firstChild.remove();
}

const TOKEN = "tidemill-token";
let waiting = []; // those who go on once there is another token

/// Headers of a request, the token among them if there is one.
function headers(others) {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { ...others, authorization: `Bearer ${token}` } : others;
}

/// Shows the field for a token and why it is asked for; resolves once one was given.
export function askForToken(why) {
  $("login").hidden = false;
  put("login-why", why ?? "a token is asked for here");
  put("state", "waiting for a token");
  $("state").dataset.state = "lost";
  return new Promise((resolve) => waiting.push(resolve));
}

function takeToken(event) {
  event.preventDefault();
  const token = $("token").value.trim();
  if (token === "") return;
  sessionStorage.setItem(TOKEN, token);
  $("token").value = "";
  $("login").hidden = true;
  $("forget").hidden = false;
  const all = waiting;
  waiting = [];
  all.forEach((go) => go());
}

function forgetToken() {
  sessionStorage.removeItem(TOKEN);
  location.reload();
}

/// One request; what the server says of an error becomes the error.
export async function ask(method, path, body, type = "application/json") {
  let reply;
  try {
    reply = await fetch(path, { method, body, headers: headers(body === undefined ? {} : { "content-type": type }) });
  } catch {
    throw new Error(`${method} ${path}: no answer; is tidemill still running?`);
  }
  const text = await reply.text();
  let value;
  try { value = JSON.parse(text); } catch { throw new Error(`${method} ${path}: ${reply.status} ${text.slice(0, 200)}`); }
  if (!reply.ok) {
    const error = new Error(`${method} ${path}: ${value.error?.message ?? reply.status}${value.error?.hint ? ` (${value.error.hint})` : ""}`);
    error.status = reply.status;
    if (reply.status === 401) askForToken(value.error?.message);
    throw error;
  }
  return value;
}

const charts = new Charts();
let model = null;
let live = null; // "latest" or "pinned 41", as the server says
let liveAskedFor = "";

function show(s) {
  model = s.model ?? null;
  put("model", model ?? "no model");
  put("live-version", model ? `@${servedVersion(s)}` : "");
  $("state").dataset.state = s.state;
  put("state", s.state);
  const recent = s.recent ?? {};
  const loss = recent.logloss ?? s.logloss;
  const best = recent.best_logloss ?? s.best_logloss;
  put("logloss", fixed(loss, 4));
  put("window", isNumber(recent.samples) ? `last ${short(recent.samples)}` : "");
  const excess = isNumber(loss) && isNumber(best) && best > 0 ? loss / best - 1 : null;
  put("excess", excess === null ? `overall ${fixed(s.logloss, 4)}` : `${excess >= 0 ? "+" : "−"}${fixed(Math.abs(excess) * 100, 1)}% over best`);
  $("excess").classList.toggle("good", excess !== null && excess < 0.02);
  put("best", fixed(best, 4));
  put("best-note", isNumber(best) ? "true probabilities" : "not known");
  put("auc", fixed(recent.auc ?? s.auc, 4));
  put("auc-overall", `overall ${fixed(s.auc, 4)}`);
  put("rate", count(s.events_per_s));
  put("events", `${short(s.events)} in all`);
  put("samples", short(s.samples));
  put("positives", s.samples > 0 ? `${fixed((100 * s.positives) / s.samples, 1)}% positive` : "");
  unit("staleness", isNumber(s.staleness_ms) ? (s.staleness_ms < 100 ? s.staleness_ms.toFixed(1) : count(s.staleness_ms)) : "–", "ms");
  unit("entries", short(s.entries), "entries");
  put("memory", `${bytes(s.table_bytes)}, process ${bytes(s.rss_bytes)}`);
  put("clock", isNumber(s.event_time_ms) ? "event time " + new Date(s.event_time_ms).toISOString().replace("T", " ").slice(0, 19) : "");
  showLine(s);
  showCounters(s);
  showVersions(s);
  showRollout(s.rollout, (button) => change(button, "rollout", JSON.stringify({ abort: true })));
  charts.show(s);
}

function unit(id, value, name) {
  const e = $(id);
  if (e.dataset.value === value) return;
  e.dataset.value = value;
  const small = document.createElement("small");
  small.textContent = name;
  e.replaceChildren(value + " ", small);
}

function servedVersion(s) {
  return (s.versions ?? []).find((v) => v.live)?.version ?? s.version ?? 0;
}

function showCounters(s) {
  const rows = [["pending impressions", s.pending], ["predictions awaiting their score", s.awaiting_score ?? 0], ...Object.entries(s.counters ?? {})];
  const key = JSON.stringify(rows);
  if ($("counters").dataset.key === key) return;
  $("counters").dataset.key = key;
  $("counters").replaceChildren(...rows.flatMap(([name, value]) => {
    const dt = document.createElement("dt");
    const dd = document.createElement("dd");
    dt.textContent = name.replaceAll("_", " ");
    dd.textContent = count(value);
    return [dt, dd];
  }));
}

function showVersions(s) {
  const versions = [...(s.versions ?? [])].sort((a, b) => b.version - a.version);
  askWhatIsLive(`${servedVersion(s)}/${versions[0]?.version}`);
  const pinned = live?.startsWith("pinned ") ?? false;
  $("promote").hidden = !pinned;
  $("pinned").hidden = !pinned;
  put("pinned", pinned ? `rolled back to ${live.slice(7)}` : "");
  const key = JSON.stringify([versions.map((v) => [v.version, v.live, v.labels, age(v.created_ms)]), live]);
  if ($("versions").dataset.key === key) return;
  $("versions").dataset.key = key;
  if (versions.length === 0) return;
  $("versions").replaceChildren(...versions.map((v, i) => versionRow(v, pinned, i === 0)));
}

function versionRow(v, pinned, newest) {
  const row = document.createElement("tr");
  const cell = (text) => { const td = row.insertCell(); td.textContent = text; return td; };
  row.classList.toggle("live", Boolean(v.live));
  const name = cell(String(v.version));
  if (v.live) {
    const mark = document.createElement("span");
    mark.className = "mark";
    mark.textContent = pinned ? "live, pinned" : "live, growing";
    name.append(mark);
  }
  for (const label of v.labels ?? []) {
    const mark = document.createElement("span");
    mark.className = "mark";
    mark.textContent = label;
    name.append(mark);
  }
  cell(count(v.samples));
  cell(fixed(v.logloss, 4));
  cell(fixed(v.auc, 4));
  cell(short(v.entries));
  const hash = document.createElement("code");
  hash.textContent = String(v.state_hash ?? "").slice(0, 8);
  hash.title = v.state_hash ?? "";
  cell("").append(hash);
  cell(age(v.created_ms));
  const action = cell("");
  if (!newest && !(v.live && pinned)) {
    const button = document.createElement("button");
    button.textContent = "roll back";
    button.setAttribute("aria-label", `roll back to version ${v.version}`);
    button.onclick = () => change(button, "rollback", JSON.stringify({ version: v.version }));
    action.append(button);
  }
  return row;
}

async function change(button, verb, body) {
  button.disabled = true;
  try {
    live = (await ask("POST", `/v1/models/${model}:${verb}`, body)).live;
    liveAskedFor = "";
  } catch (e) {
    alert(e.message);
  }
  button.disabled = false;
}

/// The status says which version is live; whether it is pinned the model itself says, asked when something changed.
async function askWhatIsLive(key) {
  if (model === null || key === liveAskedFor) return;
  liveAskedFor = key;
  try {
    live = (await ask("GET", `/v1/models/${model}`)).live;
  } catch (e) {
    if (e.status !== 404) alert(e.message);
  }
}

/// Takes statuses as they come, and begins again when they end. EventSource would do it, but sends no token.
async function connect() {
  for (let wait = 500; ; wait = Math.min(wait * 2, 5000)) {
    try {
      const reply = await fetch("/v1/events", { headers: headers({ accept: "text/event-stream" }) });
      if (reply.status === 401) {
        await askForToken((await reply.json()).error?.message);
        wait = 250;
        continue;
      }
      if (!reply.ok) {
        const error = (await reply.json()).error;
        alert(`GET /v1/events: ${error?.message ?? reply.status}${error?.hint ? ` (${error.hint})` : ""}`);
      } else {
        await read(reply.body, () => { wait = 250; });
      }
    } catch (error) {
      if (!(error instanceof TypeError)) console.error(error); // a connection that ends is one of these
    }
    $("state").dataset.state = "lost";
    put("state", "connection lost, trying again");
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

/// The events of a stream: each is lines that begin with "data:", and ends with an empty one.
async function read(body, came) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      const data = event.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
      if (data.trim() === "") continue;
      came();
      let status;
      try { status = JSON.parse(data); } catch { alert("the server sent a status that is not JSON"); continue; }
      try { show(status); } catch (error) { alert(`this page failed on a status: ${error.message}`); console.error(error); }
    }
  }
}

$("login").onsubmit = takeToken;
$("forget").onclick = forgetToken;
$("forget").hidden = sessionStorage.getItem(TOKEN) === null;
$("promote").onclick = (e) => change(e.target, "promote");
connect();
startFeed();
