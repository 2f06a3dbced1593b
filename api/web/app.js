// The worklist page: filters, live list, keys. State lives here; list.js and detail.js draw it.

import { Detail } from "./detail.js";
import { element, mark, patientName, showRows, tick } from "./list.js";
import { follow, getJson, onTokenWanted, putJson } from "./net.js";
import { chooseLanguage, language, startLanguage, t, translatePage } from "./strings.js";

const PAGE = 50;
const MOST = 200; // of one request
const get = (id) => document.getElementById(id);
const rows = get("rows");
const form = get("filters");
const list = { items: [], wanted: PAGE, next: null, mode: "triage", banner: "", chosen: null, live: null, fetching: false, dirty: false };
const detail = new Detail(get("detail"), { close: closeDetail, toggleRead, report });
let undoable = null;

function filters() {
  const { who, ...rest } = Object.fromEntries(new FormData(form));
  const text = who.trim();
  return { ...rest, [/\d/.test(text) ? "patient_id" : "name"]: text, flagged: form.elements.flagged.checked ? "true" : "" };
}

// Fetches as many studies as are wanted, in one go: a list put together from pages of different moments could hold a
// study twice or not at all.
async function refresh() {
  if (list.fetching) { list.dirty = true; return; }
  list.fetching = true;
  try {
    const asked = filters();
    const items = [];
    let page;
    do {
      page = await getJson("api/worklist", { ...asked, limit: Math.min(MOST, list.wanted - items.length), cursor: page?.next });
      items.push(...page.items);
    } while (page.next && items.length < list.wanted);
    Object.assign(list, { items, next: page.next, mode: page.mode });
    draw();
    get("trouble").hidden = true;
  } catch (error) {
    if (error.status === 400) list.dirty = true; // the order changed between two pages: a model came or went
    else { report(error); setTimeout(refresh, 3000); }
  } finally {
    list.fetching = false;
    if (list.dirty) { list.dirty = false; refresh(); }
  }
}

function loadMore() {
  list.wanted = list.items.length + PAGE;
  refresh();
}

function draw() {
  showRows(rows, list.items, language());
  mark(rows, list.chosen);
  get("more").hidden = !list.next;
  const filtered = Object.entries(filters()).some(([name, value]) => value && name !== "state");
  get("empty").hidden = list.items.length > 0;
  get("empty").textContent = t(filtered || form.elements.state.value === "read" ? "empty" : "emptyOpen");
  get("banner").hidden = list.mode !== "arrival";
  get("banner").textContent = t("arrival");
  get("sites").replaceChildren(...[...new Set(list.items.map((item) => item.site))].filter(Boolean).map((value) => element("option", { value })));
  showLive();
}

function showLive() {
  get("live").hidden = list.live === null;
  get("live").className = list.live ? "live on" : "live";
  get("live").textContent = t(list.live ? "liveOn" : "liveOff");
}

function report(error) {
  get("trouble").hidden = false;
  get("trouble").textContent = t("away", error.message);
}

function translate() {
  translatePage();
  draw();
  if (detail.item) detail.open(detail.item);
  const keys = [["j ↓ / k ↑", "helpMove"], ["Enter", "helpOpen"], ["Esc", "helpClose"], ["r", "helpRead"], ["m", "helpMap"], ["u", "helpUndo"], ["/", "helpSearch"], ["?", "helpHelp"]];
  get("help").replaceChildren(
    element("h2", { id: "help-title", textContent: t("helpTitle") }),
    element("dl", {}, ...keys.flatMap(([key, name]) => [element("dt", {}, element("kbd", { textContent: key })), element("dd", { textContent: t(name) })])),
    element("p", { textContent: t("helpDrag") }),
    element("p", { className: "buttons" }, element("button", { type: "button", className: "primary", textContent: t("close"), onclick: () => get("help").close() })));
}

// --- choosing, opening, reading

function choose(uid, options) {
  list.chosen = uid;
  mark(rows, uid, options);
}

function move(step) {
  if (!list.items.length) return;
  const at = list.items.findIndex((item) => item.study_uid === list.chosen);
  const next = at < 0 ? 0 : Math.min(Math.max(at + step, 0), list.items.length - 1);
  choose(list.items[next].study_uid, { focus: true });
  if (detail.item) detail.open(list.items[next]);
}

function open(uid) {
  const item = list.items.find((one) => one.study_uid === uid);
  if (!item) return;
  choose(uid);
  get("columns").classList.add("split");
  detail.open(item);
  if (matchMedia("(max-width: 60rem)").matches) get("detail").focus();
}

function closeDetail() {
  detail.close();
  get("columns").classList.remove("split");
  if (list.chosen) mark(rows, list.chosen, { focus: true });
}

async function toggleRead(item) {
  await setState(item, item.state === "read" ? "open" : "read", true);
}

async function setState(item, state, mayUndo) {
  try {
    await putJson(`api/worklist/${item.study_uid}/state`, { state });
  } catch (error) { report(error); return; }
  const at = list.items.findIndex((one) => one.study_uid === item.study_uid);
  if (detail.uid === item.study_uid) closeDetail();
  const neighbour = list.items[at + 1] ?? list.items[at - 1];
  if (at >= 0 && mayUndo) choose(neighbour?.study_uid ?? null, { focus: true });
  undoable = mayUndo ? { item: { ...item, state }, back: item.state } : null;
  toast(t(state === "read" ? "marked" : "reopened", patientName(item)), mayUndo);
  refresh();
}

function undo() {
  if (!undoable) return;
  const { item, back } = undoable;
  list.chosen = item.study_uid;
  setState(item, back, false);
}

let toastTimer = 0;
function toast(text, mayUndo) {
  const box = get("toast");
  box.replaceChildren(element("span", { textContent: text }));
  if (mayUndo) box.append(element("button", { type: "button", textContent: t("undo"), onclick: undo }), element("kbd", { textContent: "u" }));
  box.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { box.hidden = true; undoable = null; }, 10000);
}

// --- wiring

const KEYS = {
  j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1),
  Enter: () => list.chosen && open(list.chosen), Escape: () => detail.item && closeDetail(), u: undo,
  r: () => { const item = list.items.find((one) => one.study_uid === list.chosen); if (item) toggleRead(item); },
  m: () => detail.toggleMap(), "/": () => get("who").focus(), "?": () => get("help").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || document.querySelector("dialog[open]")) return;
  const typing = event.target.closest("input, select, textarea");
  if (typing) {
    if (event.key === "Escape" || (event.key === "Enter" && typing.id === "who")) { typing.blur(); move(0); event.preventDefault(); }
    return;
  }
  if (event.key === "Enter" && event.target.closest("button, a")) return;
  const action = KEYS[event.key];
  if (action) { event.preventDefault(); action(); }
});
rows.addEventListener("click", (event) => {
  const line = event.target.closest("tr");
  if (line && getSelection().isCollapsed) open(line.dataset.uid);
});
rows.addEventListener("focusin", (event) => { const line = event.target.closest("tr"); if (line) choose(line.dataset.uid); });

let typingTimer = 0;
function filtersChanged() {
  clearTimeout(typingTimer);
  typingTimer = setTimeout(() => { list.wanted = PAGE; refresh(); }, 180);
}
form.addEventListener("input", filtersChanged);
form.addEventListener("reset", () => setTimeout(filtersChanged));
form.addEventListener("submit", (event) => event.preventDefault());
get("more").addEventListener("click", loadMore);
get("help-button").addEventListener("click", () => get("help").showModal());
for (const button of document.querySelectorAll("[data-language]")) {
  button.addEventListener("click", () => { chooseLanguage(button.dataset.language); translate(); });
}

onTokenWanted((again) => new Promise((resolve) => {
  get("login-wrong").hidden = !again;
  get("login").showModal();
  get("login").oncancel = (event) => event.preventDefault();
  get("login-form").onsubmit = () => { resolve(get("token").value.trim()); get("token").value = ""; };
}));

startLanguage();
translate();
setInterval(() => tick(rows), 10000);
refresh();
follow("api/worklist/events", refresh, (alive) => { list.live = alive; showLive(); });
