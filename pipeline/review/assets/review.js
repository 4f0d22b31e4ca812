// Live updates, single keys, zoom, caliper and diff of the review page. Plain script, no library; the pages work without it.
"use strict";
const byId = (id) => document.getElementById(id);
const MM_PER_SECOND = 25, MM_PER_MV = 10, SHEET_WIDTH = 275, SHEET_HEIGHT = 130;

// ---- live updates -------------------------------------------------------------------------------------------------------
async function refreshRows() {
  const list = byId("waiting");
  if (!list) return;
  const answer = await fetch("/rows");
  if (!answer.ok || answer.redirected) return;
  const focused = list.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  list.innerHTML = await answer.text(); // made by this server's own escaping templates
  if (focused) {
    const links = [...list.querySelectorAll("a.open")];
    (links.find((link) => link.getAttribute("href") === focused) || links[0])?.focus();
  }
}

function listen() {
  const counts = byId("counts");
  if (!counts) return;
  const events = new EventSource("/events");
  let revision = Number(byId("waiting")?.dataset.revision ?? -1);
  events.addEventListener("counts", (event) => {
    const now = JSON.parse(event.data);
    byId("live").hidden = true;
    counts.innerHTML = now.line;
    if (now.revision !== revision) refreshRows().catch(() => {});
    revision = now.revision;
  });
  events.addEventListener("error", () => { byId("live").hidden = false; });
}

// ---- list ---------------------------------------------------------------------------------------------------------------
function moveInList(step) {
  const links = [...document.querySelectorAll("#waiting a.open")];
  if (!links.length) return;
  const at = links.indexOf(document.activeElement);
  links[Math.min(Math.max(at + step, 0), links.length - 1)].focus();
}

// ---- tracing: samples and zoom ------------------------------------------------------------------------------------------
const ZOOMS = [null, 1, 1.5, 2, 3, 4]; // null fits the width; 1 is the paper's own size, 25 mm of screen a second
let zoom = 0;

function setZoom(next) {
  const sheet = byId("sheet"), scroll = byId("sheet-scroll");
  if (!sheet) return;
  const middle = (scroll.scrollLeft + scroll.clientWidth / 2) / sheet.clientWidth;
  zoom = Math.min(Math.max(next, 0), ZOOMS.length - 1);
  const scale = ZOOMS[zoom];
  sheet.style.width = scale ? `${SHEET_WIDTH * scale}mm` : "100%";
  byId("zoom-level").textContent = scale ? `${scale * 100} %` : "fit";
  scroll.classList.toggle("pan", false);
  scroll.scrollLeft = middle * sheet.clientWidth - scroll.clientWidth / 2;
}

function switchSamples() {
  const button = byId("samples"), image = byId("ecg");
  if (!button) return;
  const filtered = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(filtered));
  button.firstChild.textContent = filtered ? "Filtered " : "Raw ";
  image.src = filtered ? image.dataset.filtered : image.dataset.raw;
  byId("chain").textContent = filtered ? byId("chain").dataset.filtered : "raw, as sampled";
}

// ---- caliper ------------------------------------------------------------------------------------------------------------
// start and end are points in millimetres of paper
let caliper = null;
const STEP_MM = 0.25; // 10 ms, 25 µV

function showCaliper() {
  const marks = byId("caliper-marks"), read = byId("caliper-read");
  byId("caliper-button").setAttribute("aria-pressed", String(Boolean(caliper)));
  marks.setAttribute("visibility", caliper ? "visible" : "hidden");
  if (!caliper) { read.textContent = "drag on the tracing to measure"; return; }
  const { start, end } = caliper;
  const set = (id, values) => {
    for (const [name, value] of Object.entries(values)) byId(id).setAttribute(name, value);
  };
  const size = { width: Math.abs(end.x - start.x), height: Math.abs(end.y - start.y) };
  set("caliper-box", { x: Math.min(start.x, end.x), y: Math.min(start.y, end.y), ...size });
  set("caliper-start", { x1: start.x, x2: start.x });
  set("caliper-end", { x1: end.x, x2: end.x });
  const ms = Math.abs(end.x - start.x) / MM_PER_SECOND * 1000;
  const mv = (start.y - end.y) / MM_PER_MV; // the paper's y grows downwards
  const rate = ms >= 200 ? ` · ${Math.round(60000 / ms)}/min` : "";
  read.textContent = `${Math.round(ms)} ms · ${mv.toFixed(2)} mV${rate}`;
}

function within(point) {
  return { x: Math.min(Math.max(point.x, 0), SHEET_WIDTH), y: Math.min(Math.max(point.y, 0), SHEET_HEIGHT) };
}

function paperPoint(event) {
  const box = byId("caliper").getBoundingClientRect();
  const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
  return within({ x: x * SHEET_WIDTH, y: y * SHEET_HEIGHT });
}

function toggleCaliper() {
  if (!byId("caliper")) return;
  // one second and one millivolt on the rhythm strip
  caliper = caliper ? null : { start: { x: 40, y: 110 }, end: { x: 65, y: 100 } };
  showCaliper();
  if (caliper) byId("sheet-scroll").focus({ preventScroll: true });
}

function moveCaliper(event) {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!caliper || !step) return false;
  const mm = STEP_MM * (event.shiftKey ? 4 : 1);
  const moved = (point) => within({ x: point.x + step[0] * mm, y: point.y + step[1] * mm });
  caliper.end = moved(caliper.end);
  if (event.shiftKey) caliper.start = moved(caliper.start);
  showCaliper();
  return true;
}

function setUpCaliper() {
  const overlay = byId("caliper");
  if (!overlay) return;
  overlay.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    overlay.setPointerCapture(event.pointerId);
    const point = paperPoint(event);
    caliper = { start: point, end: point };
    showCaliper();
  });
  overlay.addEventListener("pointermove", (event) => {
    if (!caliper || !overlay.hasPointerCapture(event.pointerId)) return;
    caliper.end = paperPoint(event);
    showCaliper();
  });
  byId("caliper-button").addEventListener("click", toggleCaliper);
  byId("samples").addEventListener("click", switchSamples);
  byId("zoom-in").addEventListener("click", () => setZoom(zoom + 1));
  byId("zoom-out").addEventListener("click", () => setZoom(zoom - 1));
  byId("zoom-fit").addEventListener("click", () => setZoom(0));
}

// ---- diff ---------------------------------------------------------------------------------------------------------------
// Longest common subsequence of words and the blanks between them.
function diffWords(before, after) {
  const cut = (text) => text.trim().split(/(\s+)/).filter(Boolean);
  const a = cut(before), b = cut(after);
  if (a.length * b.length > 1e6) return [["del", before], ["ins", after]];
  const length = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      length[i][j] = a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  const parts = [];
  const add = (kind, text) => {
    if (parts.length && parts.at(-1)[0] === kind) parts.at(-1)[1] += text; else parts.push([kind, text]);
  };
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) { add("same", a[i]); i++; j++; }
    else if (j >= b.length || (i < a.length && length[i + 1][j] >= length[i][j + 1])) { add("del", a[i]); i++; }
    else { add("ins", b[j]); j++; }
  }
  return parts;
}

function showDiff() {
  const text = byId("text"), diff = byId("diff");
  if (!text) return;
  const parts = diffWords(text.dataset.drafted, text.value);
  if (parts.every(([kind]) => kind === "same")) { diff.textContent = "none"; return; }
  diff.replaceChildren(...parts.map(([kind, words]) => {
    if (kind === "same") return document.createTextNode(words);
    const node = document.createElement(kind);
    node.textContent = words;
    return node;
  }));
}

// ---- signing ------------------------------------------------------------------------------------------------------------
let confirmed = false;

function ask(button) {
  const form = byId("sign-form"), reject = button.value === "reject";
  if (reject && !byId("reason").value.trim()) {
    byId("reason").setCustomValidity("Say why the draft is rejected.");
    byId("reason").reportValidity();
    return;
  }
  if (!reject && !byId("text").value.trim()) { byId("text").focus(); return; }
  byId("confirm-title").textContent = reject ? "Reject this draft?" : "Sign this report?";
  byId("confirm-text").textContent = reject ? byId("reason").value : byId("text").value;
  const meaning = byId("confirm-meaning");
  meaning.textContent = reject ? meaning.dataset.reject : meaning.dataset.sign;
  const yes = byId("confirm-yes");
  yes.textContent = reject ? "Reject" : "Sign";
  yes.onclick = () => {
    confirmed = true;
    yes.disabled = true;
    yes.textContent = "Publishing…";
    form.requestSubmit(button);
  };
  byId("confirm").showModal();
  yes.focus();
}

function setUpEditor() {
  const form = byId("sign-form");
  if (!form) return;
  byId("text").addEventListener("input", showDiff);
  showDiff();
  if (!byId("sign")) return;
  byId("reason").addEventListener("input", () => byId("reason").setCustomValidity(""));
  byId("confirm-no").addEventListener("click", () => byId("confirm").close());
  form.addEventListener("submit", (event) => {
    if (confirmed) return;
    event.preventDefault();
    ask(event.submitter?.value === "reject" ? byId("reject") : byId("sign"));
  });
  byId("reason").addEventListener("keydown", (event) => {
    if (event.key === "Enter") { event.preventDefault(); ask(byId("reject")); }
  });
  window.addEventListener("beforeunload", (event) => {
    const text = byId("text");
    if (!confirmed && text.value !== text.defaultValue) event.preventDefault();
  });
}

// ---- keys ---------------------------------------------------------------------------------------------------------------
// Single keys can be turned off (WCAG 2.1.4): they then go to whatever else listens to them, such as speech input.
const singleKeys = () => localStorage.getItem("single-keys") !== "off";

const KEYS = {
  j: () => moveInList(1), ArrowDown: () => moveInList(1), k: () => moveInList(-1), ArrowUp: () => moveInList(-1),
  e: () => byId("text")?.focus(),
  s: () => { if (byId("sign")) ask(byId("sign")); },
  x: () => {
    if (!byId("reject")) return;
    if (byId("reason").value.trim()) ask(byId("reject")); else byId("reason").focus();
  },
  n: () => { location.href = byId("next")?.href ?? "/next"; },
  l: () => { location.href = "/"; },
  r: switchSamples, "+": () => setZoom(zoom + 1), "=": () => setZoom(zoom + 1), "-": () => setZoom(zoom - 1), 0: () => setZoom(0),
  c: toggleCaliper,
  "?": () => byId("help")?.showModal(),
};

function onKey(event) {
  if (event.ctrlKey && event.key === "Enter" && byId("sign")) { event.preventDefault(); ask(byId("sign")); return; }
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const writing = event.target.matches("textarea, input:not([type=checkbox])");
  if (event.key === "Escape") {
    if (writing) byId("main").focus(); else if (caliper) toggleCaliper();
    return;
  }
  if (writing || !singleKeys()) return;
  if (moveCaliper(event)) { event.preventDefault(); return; }
  const inScroller = event.target.id === "sheet-scroll";
  if (event.key.startsWith("Arrow") && (inScroller || !byId("waiting"))) return;
  const action = KEYS[event.key];
  if (action) { event.preventDefault(); action(); }
}

document.addEventListener("keydown", onKey);
byId("help-button")?.addEventListener("click", () => byId("help").showModal());
const toggle = byId("single-keys");
if (toggle) {
  toggle.checked = singleKeys();
  toggle.addEventListener("change", () => localStorage.setItem("single-keys", toggle.checked ? "on" : "off"));
}
setUpCaliper();
setUpEditor();
listen();
byId("error")?.focus();
if (byId("waiting") && document.activeElement === document.body) document.querySelector("#waiting a.open")?.focus();
