// The feed: items ranked by the model for one reader. What is shown is sent as impressions, a click as a click; then the
// prediction is asked for until the click is seen in it, and the milliseconds from the click to that moment are shown.
import { alert, ask, askForToken, fixed } from "./app.js";

const POLL_MS = 5; // between two looks at the prediction after a click
const WAIT_MS = 3000; // for how long
const REFRESH_MS = 1000; // shown probabilities follow the model, in place
const MOVE_MS = 380;
const SEEN_MS = 4000; // an impression counts for this long; the demo attributes a click to one of the last 5 s
const RISE_MIN = 1e-3; // log odds by which a click is seen to have been learned; rounding is a thousand times less

let feed = null;
let cards = []; // {item, id, p, before, element, parts}, in the order in which they are shown
let clicks = 0;
let busy = false;
let queued = null; // the card clicked last while another click was waited for

export async function startFeed() {
  try {
    feed = await ask("GET", "/v1/feed");
  } catch (e) {
    if (e.status === 401) askForToken().then(startFeed);
    else if (e.status !== 404 && e.status !== 403) { alert(e.message); setTimeout(startFeed, 2000); }
    return;
  }
  document.getElementById("feed").hidden = false;
  document.getElementById("main").classList.add("with-feed");
  if (feed.user) document.getElementById("feed-user").textContent = `for ${feed.user.column} = ${feed.user.value}`;
  cards = feed.items.map(makeCard);
  document.getElementById("items").replaceChildren(...cards.map((c) => c.element));
  await round();
  setInterval(refresh, REFRESH_MS);
}

/// Ranks what is shown now and sends it as impressions.
async function round() {
  try {
    await predictAll();
    rank();
    await show(cards);
  } catch (e) {
    alert(e.message);
  }
}

async function refresh() {
  if (busy || document.hidden) return;
  try {
    await predictAll();
    // Not under a pointer that may be about to click, and not where there is no telling.
    if (!busy && matchMedia("(hover: hover)").matches && !document.getElementById("feed").matches(":hover")) rank();
  } catch (e) {
    alert(e.message);
  }
}

/// A card looked at long after it was shown is shown anew: its old impression has become a negative that no click can
/// take back. Called as the pointer comes near, so that a click finds it done.
function seen(card) {
  if (Date.now() - card.shown < SEEN_MS) return card.showing;
  card.showing = show([card]).catch((e) => alert(e.message));
  return card.showing;
}

/// `began`: when the finger came down, in the page's own time.
async function click(card, began) {
  if (busy) {
    queued = card;
    card.before = null; // the click before it will have changed that
    return;
  }
  busy = true;
  note(card, "sent", true);
  cards.forEach((c) => c.parts.button.classList.toggle("chosen", c === card));
  try {
    const before = (await card.before) ?? (await own(card));
    await seen(card);
    card.before = null;
    await push(feed.clicks_source, [{ [feed.id_column]: card.id, [feed.time_column]: Date.now() }]);
    clicks += 1;
    document.getElementById("feed-clicks").textContent = `${clicks} ${clicks === 1 ? "click" : "clicks"}`;
    const took = await untilChanged(card, before, began);
    note(card, took === null ? unchanged() : `changed in ${took < 10 ? took.toFixed(1) : Math.round(took)} ms`, took === null);
    rank();
    // Only the clicked card is shown anew: the others' impressions count still, and each one more would be one more negative.
    await show([card]);
  } catch (e) {
    note(card, "", false);
    alert(e.message);
  }
  busy = false;
  const next = queued;
  queued = null;
  if (next) click(next, performance.now());
}

function unchanged() {
  return document.getElementById("pinned").hidden ? `unchanged after ${WAIT_MS / 1000} s` : "unchanged: rolled back";
}

/// Milliseconds from the click until the prediction showed it, or null.
async function untilChanged(card, before, began) {
  while (performance.now() - began < WAIT_MS) {
    if ((await own(card)) > before + RISE_MIN) {
      const took = performance.now() - began;
      await predictAll();
      return took;
    }
    await new Promise((done) => setTimeout(done, POLL_MS));
  }
  return null;
}

/// What the model has learned of this reader, in log odds: the prediction against the one for a reader it cannot know.
/// The stream moves the shared weights many times a second; this difference only the reader's own events move.
async function own(card) {
  const rows = [row(card)];
  if (feed.user) rows.push({ ...row(card), [feed.user.column]: null });
  const [reader, stranger = 0] = (await predict(rows)).predictions.map(({ probability }) => logOdds(probability));
  return reader - stranger;
}

function logOdds(p) {
  const q = Math.min(Math.max(p, 1e-7), 1 - 1e-7);
  return Math.log(q / (1 - q));
}

async function predictAll() {
  const asked = [...cards];
  setProbabilities(asked, (await predict(asked.map(row))).predictions);
}

function predict(rows) {
  return ask("POST", `/v1/models/${feed.model}:predict`, JSON.stringify({ rows }));
}

function row(card) {
  return feed.user ? { ...card.item.row, [feed.user.column]: feed.user.value } : card.item.row;
}

/// Every item that is shown is an impression with an id of its own.
async function show(some) {
  const now = Date.now();
  const events = some.map((card) => {
    card.id = newId();
    card.shown = now;
    return { ...row(card), [feed.id_column]: card.id, [feed.time_column]: now };
  });
  await push(feed.impressions_source, events);
}

async function push(source, events) {
  const reply = await ask("POST", `/v1/sources/${source}`, events.map((e) => JSON.stringify(e)).join("\n") + "\n", "application/x-ndjson");
  if (reply.refused.length) alert(`${source}: ${reply.refused.length} of ${events.length} events refused; line ${reply.refused[0].line}: ${reply.refused[0].reason}`);
}

/// Above what the generator counts up to, and exact as a JavaScript number: from 2^52 on, below 2^53.
function newId() {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2));
  return 2 ** 52 + (high % 2 ** 20) * 2 ** 32 + low;
}

function setProbabilities(asked, predictions) {
  const most = Math.max(...predictions.map((p) => p.probability), 1e-9);
  predictions.forEach(({ probability }, i) => {
    const card = asked[i];
    card.p = probability;
    card.parts.p.textContent = `${fixed(probability * 100, probability < 0.1 ? 2 : 1)}%`;
    card.parts.bar.style.transform = `scaleX(${(probability / most).toFixed(4)})`;
  });
}

/// Puts the cards into the order of their probabilities; each glides from where it was.
function rank() {
  const place = (c) => c.element.getBoundingClientRect();
  const from = new Map(cards.map((c) => [c, place(c)]));
  cards.sort((a, b) => b.p - a.p);
  document.getElementById("items").append(...cards.map((c) => c.element));
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const card of cards) {
    const [was, is] = [from.get(card), place(card)];
    const start = { transform: `translate(${was.left - is.left}px, ${was.top - is.top}px)` };
    if (was.top !== is.top || was.left !== is.left) {
      card.element.animate([start, { transform: "none" }], { duration: MOVE_MS, easing: "cubic-bezier(.2,.8,.2,1)" });
    }
  }
}

function note(card, text, waiting) {
  cards.forEach((c) => { c.parts.note.textContent = ""; });
  card.parts.note.textContent = text;
  card.parts.note.classList.toggle("waiting", waiting);
}

function makeCard(item) {
  const element = document.createElement("li");
  const button = document.createElement("button");
  button.className = "card";
  const part = (name) => {
    const span = document.createElement("span");
    span.className = name;
    button.append(span);
    return span;
  };
  const parts = { button, title: part("title"), p: part("p"), about: part("about"), note: part("note"), bar: part("bar") };
  parts.title.textContent = item.title;
  parts.about.textContent = item.about ?? "";
  element.append(button);
  const card = { item, id: null, shown: 0, showing: null, p: 0, before: null, element, parts };
  button.onpointerenter = () => { seen(card); };
  // Asked for while the finger goes up again: the click itself then waits for nothing.
  button.onpointerdown = () => { card.before = own(card).catch(() => null); };
  button.onclick = (event) => click(card, event.timeStamp);
  return card;
}
