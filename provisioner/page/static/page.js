// Keeps the page fresh and asks before acts. Everything shown is made by the service; without this script the page is
// whole, only still. What comes from outside is either HTML that the service has escaped, or set as text.

const root = document.documentElement;
const $ = (id) => document.getElementById(id);
root.dataset.scripts = "";

// Colours

const theme = $("theme");
theme.hidden = false;
theme.addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try { localStorage.theme = root.dataset.theme; } catch { /* a browser that keeps nothing asks its system again */ }
});

// Words

function spanWords(seconds) {
  const whole = Math.max(Math.round(seconds), 0);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return hours % 24 ? `${Math.floor(hours / 24)} d ${hours % 24} h` : `${Math.floor(hours / 24)} d`;
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const dayAndClock = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

function localTimes(within) {
  const today = new Date().toDateString();
  for (const each of within.querySelectorAll(".event time")) {
    const at = new Date(each.dateTime);
    each.title = at.toLocaleString();
    each.textContent = at.toDateString() === today ? clock.format(at) : dayAndClock.format(at);
  }
}

function ticking() {
  const now = Date.now();
  for (const each of document.querySelectorAll("time.since")) {
    const text = spanWords((now - Date.parse(each.dateTime)) / 1000);
    if (each.textContent !== text) each.textContent = text;
  }
  for (const bar of document.querySelectorAll("progress[data-left]")) {
    // What was left when it was told, less what has gone by: the bar moves on between two words of the service.
    bar.begun ??= now;
    const left = Math.max(Number(bar.dataset.left) - (now - bar.begun) / 1000, 0);
    const gone = (now - Date.parse(bar.dataset.since)) / 1000;
    bar.value = bar.max * Math.min(gone / Math.max(gone + left, 1), 0.97);
    const words = bar.parentElement.querySelector(".left");
    if (words) words.textContent = left >= 1 ? `about ${spanWords(left)} left` : "any moment";
  }
}

// What is new

const rows = $("rows");
const state = $("link-state");
let last = root.dataset.lastEvent;
let looking = false;
let again = false;

const LOOK_EVERY = 2000;
const AFTER_EVENT = 60;
const ROWS_ASKED = 50;
const ROWS_DRAWN = 4;

function made(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content;
}

function replaced(element, html) {
  const active = document.activeElement;
  const inside = element.contains(active);
  const key = inside ? active.dataset.act || active.closest("[data-act]")?.dataset.act || active.className : null;
  const open = element.querySelector("details.menu")?.open;
  const fresh = made(html).firstElementChild;
  element.replaceWith(fresh);
  if (open) fresh.querySelector("details.menu")?.setAttribute("open", "");
  if (inside) {
    const again = [...fresh.querySelectorAll("a, button, summary")];
    const own = again.find((each) => (each.dataset.act || each.closest("[data-act]")?.dataset.act || each.className) === key);
    (own || again.find((each) => each.matches(".c-act *")) || again[0])?.focus();
  }
  return fresh;
}

const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));

async function ask(path) {
  const answer = await fetch(path, { headers: { Accept: "application/json" } });
  if (answer.status === 401 || answer.status === 403) location.assign("/");
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer;
}

function is(connected) {
  state.hidden = false;
  state.classList.toggle("away", !connected);
  const words = connected ? "live" : "the service does not answer";
  if (state.textContent !== words) state.textContent = words;
}

async function look() {
  if (looking) {
    again = true;
    return;
  }
  looking = true;
  try {
    const of = $("events")?.dataset.of;
    const found = await (await ask(`/page/live?after=${last}${of ? `&node=${of}` : ""}`)).json();
    is(true);
    if ($("summary") && $("summary").lookedAt !== found.summary) {
      $("summary").lookedAt = found.summary;
      $("summary").replaceChildren(made(found.summary));
    }
    if (found.events !== undefined) {
      last = String(found.last);
      if ($("events")) {
        $("events").replaceChildren(made(found.events));
        localTimes($("events"));
      }
    }
    await freshen(found.versions);
  } catch {
    is(false);
  } finally {
    looking = false;
  }
  if (again) {
    again = false;
    soon();
  }
}

async function freshen(versions) {
  const stale = [...rows.children].filter((row) => versions[row.dataset.node] && versions[row.dataset.node] !== row.dataset.version);
  for (let at = 0; at < stale.length; at += ROWS_ASKED) {
    const some = stale.slice(at, at + ROWS_ASKED);
    const query = new URLSearchParams(some.map((row) => ["node", row.dataset.node]));
    const found = await (await ask(`/page/rows?${query}`)).json();
    for (const [number, row] of some.entries()) {
      const html = found[row.dataset.node];
      if (html) replaced(row, html);
      // The browser draws, and hears its user, between two portions.
      if (number % ROWS_DRAWN === ROWS_DRAWN - 1) await frame();
    }
  }
  if (stale.length) {
    filter();
    ticking();
  }
}

let due;
function soon() {
  due ??= setTimeout(() => {
    due = undefined;
    look();
  }, AFTER_EVENT);
}

const KINDS = ["step", "wake", "sleep", "mode", "hold", "idle", "state", "request", "service"];
let stream;

function listen() {
  if (stream || document.hidden) return;
  stream = new EventSource(`/api/events?after=${last}`);
  stream.addEventListener("open", () => is(true));
  stream.addEventListener("error", () => {
    is(false);
    if (stream?.readyState === EventSource.CLOSED) {
      stream = undefined;
      setTimeout(listen, LOOK_EVERY);
    }
  });
  for (const kind of KINDS) {
    stream.addEventListener(kind, (message) => {
      const event = JSON.parse(message.data);
      recent.push(event);
      if (recent.length > 100) recent.shift();
      heard(event);
      soon();
    });
  }
}

// A browser has six connections to one service: a page that nobody looks at gives its own up.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    stream?.close();
    stream = undefined;
  } else if (rows) {
    listen();
    soon();
  }
});

// What was begun here, and how it ends

const begun = new Map();
const recent = [];

function begin(node, asked) {
  begun.set(node, asked);
  // It may be over before we hear that it was begun.
  for (const event of recent) heard(event);
}

function heard(event) {
  const asked = begun.get(event.node);
  if (asked === undefined || event.number <= asked.after || event.kind !== asked.kind) return;
  if (event.phase === "failed") {
    begun.delete(event.node);
    tell(`${event.node}: ${asked.name} failed`, event.detail, "bad");
  } else if (event.phase === "done") {
    begun.delete(event.node);
    const seconds = event.facts?.seconds;
    tell(`${event.node}: ${asked.done}`, seconds ? `after ${seconds < 1 ? "less than 1 s" : spanWords(seconds)}` : "", "good");
  }
}

function tell(words, more = "", how = "") {
  const toast = document.createElement("div");
  toast.className = `toast ${how}`;
  toast.textContent = words;
  if (more) {
    const small = document.createElement("small");
    small.textContent = more;
    toast.append(small);
  }
  $("toasts").append(toast);
  setTimeout(() => toast.remove(), how === "bad" ? 15000 : 6000);
  while ($("toasts").children.length > 4) $("toasts").firstElementChild.remove();
}

const ACTS = {
  wake: { kind: "wake", name: "wake", done: "awake", body: () => ({ wait: false }) },
  sleep: { kind: "sleep", name: "sleep", done: "asleep", yes: "Put to sleep", words: "Requests under way end first. It is refused while the node is busy.", body: (form) => ({ wait: false, ...forced(form) }) },
  mode: { kind: "mode", name: "change of mode", done: "in its new mode", yes: "Switch", words: "A mode that does not answer is rolled back.", body: (form) => ({ wait: false, mode: form.mode.value, ...forced(form) }) },
  hold: { name: "hold", done: "held", yes: "Hold", words: "Nobody puts it to sleep or gives its GPU away until the time is over.", body: (form) => ({ duration: form.duration.value, why: form.why.value }) },
  release: { name: "release", done: "released", yes: "Release", words: "Your hold ends; those of others stay.", body: () => ({}) },
};
const forced = (form) => (form.force?.checked ? { force: true } : {});
const TITLES = { sleep: "Put NODE to sleep?", mode: "Switch NODE to another mode?", hold: "Hold NODE?", release: "Release NODE?" };

async function act(name, node, form) {
  const what = ACTS[name];
  const row = $(`node-${node}`);
  for (const each of row?.querySelectorAll("button") ?? []) each.disabled = true;
  try {
    const answer = await fetch(`/api/nodes/${encodeURIComponent(node)}/${name}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(what.body(form)),
    });
    const said = await answer.json();
    if (!answer.ok) {
      tell(`${node}: ${said.detail}`, said.next_step ? `next: ${said.next_step}` : "", "bad");
    } else if (answer.status === 202) {
      begin(node, { ...what, after: said.events_after });
    } else {
      tell(`${node}: ${what.done}`, "", "good");
    }
  } catch {
    tell(`${node}: ${what.name} was not asked for`, "the service does not answer", "bad");
  } finally {
    for (const each of $(`node-${node}`)?.querySelectorAll("button") ?? []) each.disabled = false;
    soon();
  }
}

const dialog = $("ask");
let wanted;

function askFirst(name, node, offer) {
  const form = $("ask-form");
  form.reset();
  wanted = { name, node };
  $("ask-title").textContent = TITLES[name].replace("NODE", node);
  $("ask-words").textContent = ACTS[name].words;
  $("ask-yes").textContent = ACTS[name].yes;
  for (const field of form.querySelectorAll("[data-for]")) field.hidden = !field.dataset.for.split(" ").includes(name);
  if (name === "mode") {
    form.mode.replaceChildren(...offer.modes.split(" ").map((mode) => new Option(mode, mode, false, mode === offer.mode)));
  }
  dialog.showModal();
}

dialog?.addEventListener("close", () => {
  if (dialog.returnValue === "yes" && wanted) act(wanted.name, wanted.node, $("ask-form"));
  dialog.returnValue = "";
});

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-act]");
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target) || link) menu.open = false;
  }
  if (link && dialog && !event.metaKey && !event.ctrlKey) {
    event.preventDefault();
    askFirst(link.dataset.act, link.closest("[data-node]").dataset.node, link.dataset);
  }
});

// What is out of sight is not drawn, nor is what sticks out of its row, unless the row says so.
document.addEventListener("toggle", (event) => {
  event.target.closest?.(".node")?.classList.toggle("open", event.target.open);
}, true);

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    const menu = document.querySelector("details.menu[open]");
    if (menu) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  }
  if (event.key === "/" && !event.target.closest("input, textarea, select") && !event.metaKey && !event.ctrlKey) {
    const search = document.querySelector("input[type=search]");
    if (search) {
      event.preventDefault();
      search.focus();
    }
  }
});

document.addEventListener("submit", (event) => {
  const form = event.target.closest("form[data-act]");
  if (form) {
    event.preventDefault();
    act(form.dataset.act, form.closest("[data-node]").dataset.node, form);
  }
});

// Finding nodes

const query = $("node-query");

function filter() {
  if (!query) return;
  const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows.children) {
    row.hidden = !words.every((word) => row.dataset.find.includes(word));
    shown += !row.hidden;
  }
  $("none-found").hidden = shown > 0;
}

if (query && rows) {
  query.addEventListener("input", filter);
  // A page that was asked for with words holds no other rows.
  if (!query.value) $("node-search").addEventListener("submit", (event) => event.preventDefault());
}

// Charts

const charts = $("charts");

async function draw() {
  if (!charts || document.hidden) return;
  const wanted = new URLSearchParams({ reach: charts.dataset.reach });
  if (charts.dataset.of) wanted.set("node", charts.dataset.of);
  try {
    charts.innerHTML = await (await ask(`/page/charts?${wanted}`)).text();
    charts.classList.toggle("four", charts.children.length === 4);
  } catch { /* the next look says that nobody answers */ }
}

for (const link of document.querySelectorAll(".reaches a")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    charts.dataset.reach = link.dataset.reach;
    for (const each of document.querySelectorAll(".reaches a")) each.toggleAttribute("aria-current", each === link);
    link.setAttribute("aria-current", "true");
    draw();
  });
}

// Trying a request

const tester = $("tester");
let stopped;

async function* pieces(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.trim()) yield line.trim();
  }
}

async function send() {
  const [words, text] = [$("answer-state"), $("answer-text")];
  const began = performance.now();
  const gone = () => (performance.now() - began) / 1000;
  stopped = new AbortController();
  $("answer").hidden = false;
  $("tester-stop").hidden = false;
  text.textContent = "";
  text.classList.remove("bad");
  words.textContent = "sent";
  const patience = setInterval(() => {
    if (!text.textContent) words.textContent = `${words.dataset.said || "waiting"} · ${spanWords(gone())}`;
  }, 1000);
  const fail = (said) => {
    text.textContent += (text.textContent ? "\n" : "") + said;
    text.classList.add("bad");
    words.textContent = "no answer";
  };
  let first;
  let count = 0;
  delete words.dataset.said;
  try {
    const answer = await fetch("/v1/chat/completions", {
      method: "POST",
      signal: stopped.signal,
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({
        model: tester.model.value,
        stream: true,
        max_tokens: Number(tester.most.value) || undefined,
        messages: [{ role: "user", content: tester.question.value }],
      }),
    });
    if (!answer.ok) {
      const said = await answer.json().catch(() => ({}));
      fail(said.error?.message || said.error || `the service answers ${answer.status}`);
      return;
    }
    let node = answer.headers.get("x-provisioner-node");
    const stoodIn = answer.headers.get("x-provisioner-fallback") ? " (stood in)" : "";
    for await (const line of pieces(answer.body)) {
      if (line.startsWith(":")) {
        words.dataset.said = line.slice(1).trim();
        words.textContent = `${words.dataset.said} · ${spanWords(gone())}`;
        node ??= words.dataset.said.split(" ")[0];
        continue;
      }
      if (!line.startsWith("data:") || line === "data: [DONE]") continue;
      const said = JSON.parse(line.slice(5));
      if (said.error) {
        fail(said.error.message || String(said.error));
        return;
      }
      const delta = said.choices?.[0]?.delta;
      const piece = delta?.content || delta?.reasoning_content || "";
      if (piece) {
        first ??= gone();
        count += 1;
        text.append(piece);
        text.scrollTop = text.scrollHeight;
      }
    }
    const rate = count > 1 && gone() > first ? ` · ${((count - 1) / (gone() - first)).toFixed(1)} pieces/s` : "";
    const when = first === undefined ? "" : ` · first word after ${first < 1 ? `${Math.round(first * 1000)} ms` : `${first.toFixed(1)} s`}`;
    words.textContent = `${node ? `${node}${stoodIn} answered` : "answered"}${when}${rate}`;
    if (!count) text.textContent = "(an empty answer)";
  } catch (error) {
    if (error.name === "AbortError") words.textContent = "stopped";
    else fail("the connection broke off");
  } finally {
    clearInterval(patience);
    $("tester-stop").hidden = true;
    soon();
    draw();
  }
}

tester?.addEventListener("submit", (event) => {
  event.preventDefault();
  stopped?.abort();
  send();
});
tester?.question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.metaKey || event.ctrlKey)) tester.requestSubmit();
});
$("tester-stop")?.addEventListener("click", () => stopped?.abort());

// Begin

localTimes(document);
if (rows) {
  ticking();
  setInterval(ticking, 1000);
  setInterval(() => document.hidden || look(), LOOK_EVERY);
  setInterval(draw, 5 * LOOK_EVERY);
  listen();
}
