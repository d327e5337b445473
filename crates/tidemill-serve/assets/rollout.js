// The rollout of a model: where it stands, what each guard has found, what became of versions lately.
// In: `rollout` of a status. Out: lines above the table of versions; nothing while there was never a rollout.
const $ = (id) => document.getElementById(id);
const isNumber = (x) => typeof x === "number" && Number.isFinite(x);

export function showRollout(rollout, onAbort) {
  const now = rollout?.now ?? null;
  const verdicts = rollout?.verdicts ?? [];
  $("rollout").hidden = now === null && verdicts.length === 0;
  const key = JSON.stringify([now, verdicts]);
  if ($("rollout").dataset.key === key) return;
  $("rollout").dataset.key = key;
  const lines = [];
  if (now !== null) {
    const head = line(`version ${now.version} on ${now.share}% of the traffic, stage ${now.stage} of ${now.stages}; ${now.waits_for}`);
    const abort = document.createElement("button");
    abort.textContent = "end rollout";
    abort.onclick = () => onAbort(abort);
    head.append(" ", abort);
    const matured = now.figures?.matured?.samples ?? 0;
    lines.push(head, line(`${requests("live", now)}; ${requests("version", now)}; ${matured} matured samples`, "muted"));
    lines.push(...(now.guards ?? []).map(guard));
  }
  lines.push(...verdicts.map((v) => line(`version ${v.version} ${v.outcome}: ${v.reason}`, v.outcome === "rolled back" || v.outcome === "held" ? "bad" : "muted")));
  $("rollout").replaceChildren(...lines);
}

function requests(arm, now) {
  const figures = now.figures?.[arm] ?? {};
  return `${arm} ${figures.requests ?? 0} requests, ${figures.errors ?? 0} failed`;
}

/// A guard with its figure, and a meter of what speaks against the version.
function guard(g) {
  const row = line("", "guard");
  const name = document.createElement("span");
  const meter = document.createElement("meter");
  const figure = document.createElement("span");
  name.textContent = g.guard;
  meter.max = 1;
  meter.high = 0.5;
  meter.optimum = 0;
  meter.value = g.evidence;
  meter.title = `${Math.round(g.evidence * 100)}% of what rolls it back`;
  figure.textContent = isNumber(g.figure) ? `${g.figure.toPrecision(4)} (guard ${g.bound})` : `– (guard ${g.bound})`;
  row.append(name, meter, figure);
  return row;
}

function line(text, kind) {
  const p = document.createElement("p");
  p.textContent = text;
  if (kind) p.className = kind;
  return p;
}
