// The rows of the worklist. A row is rebuilt only when what it shows has changed, so that focus and scrolling stay.

import { clock, day, findingName, percent, reason, span, t } from "./strings.js";

export function element(tag, options = {}, ...children) {
  const { dataset, ...rest } = options;
  const node = Object.assign(document.createElement(tag), rest);
  Object.assign(node.dataset, dataset ?? {});
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function suspected(item) {
  const named = item.findings.filter((finding) => finding.name.toLowerCase() !== "abnormal");
  return named.length ? t("suspected", named.slice(0, 3).map((one) => findingName(one.name)).join(", ")) : t("looksAbnormal");
}

function why(item) {
  if (item.status === "scored") return document.createTextNode(item.flagged ? suspected(item) : t("maxWait"));
  if (item.status === "waiting") return document.createTextNode(t("waitingWhy"));
  return element("span", reason(item.reason));
}

export function badge(item) {
  if (item.status !== "scored") return element("span", { className: `badge ${item.status}`, textContent: t(item.status) });
  const text = item.flagged ? `${t("flagged")} ` : `${t("notFlagged")} `;
  const number = item.probability === null ? null : element("b", { textContent: percent(item.probability) });
  return element("span", { className: item.flagged ? "badge flagged" : "badge", title: item.model }, text, number);
}

export function patientName(item) {
  return item.patient_name || t("noName");
}

// Parts with dots between them; a line never breaks inside a part.
export function dotted(tag, parts) {
  const line = element(tag);
  parts.filter(Boolean).forEach((part, place) => line.append(place ? " · " : "", element("span", { className: "part", textContent: part })));
  return line;
}

export function person(item) {
  return [item.patient_id, item.patient_birth_date ? t("born", day(item.patient_birth_date)) : "",
    ["M", "F", "O"].includes(item.patient_sex) ? t(item.patient_sex) : ""];
}

export function study(item) {
  return [item.modalities.join("/"), item.study_date ? day(item.study_date) : ""];
}

function cell(label, className, ...children) {
  return element("td", { className, dataset: { label } }, ...children);
}

function row(item) {
  const line = element("tr", { id: `study-${item.study_uid}`, tabIndex: -1, dataset: { uid: item.study_uid } });
  line.className = [item.flagged ? "is-flagged" : "", item.state === "read" ? "is-read" : ""].join(" ").trim();
  const due = element("time", { className: "relative", dateTime: item.due_at });
  line.append(
    cell(t("due"), "due", due, element("time", { className: "absolute", dateTime: item.due_at, textContent: clock(item.due_at) }),
      item.priority === "routine" ? null : element("span", { className: `priority ${item.priority}`, textContent: t(item.priority) })),
    cell(t("flag"), "flag", badge(item)),
    cell(t("patient"), "patient", element("strong", { textContent: patientName(item) }), dotted("small", person(item))),
    cell(t("study"), "study", element("span", { textContent: item.description }), dotted("small", [...study(item), item.site])),
    cell(t("why"), "why", item.state === "read" ? document.createTextNode(t("readBy", item.read_by, clock(item.read_at))) : why(item)),
    cell(t("arrived"), "arrived", element("time", { dateTime: item.arrived_at, textContent: clock(item.arrived_at) })),
  );
  return line;
}

export function showRows(body, items, language) {
  const old = new Map([...body.children].map((line) => [line.dataset.uid, line]));
  const wanted = items.map((item) => {
    const shape = language + JSON.stringify(item);
    const before = old.get(item.study_uid);
    if (before && before.shape === shape) return before;
    const line = row(item);
    line.shape = shape;
    if (before && before.contains(document.activeElement)) queueMicrotask(() => line.focus({ preventScroll: true }));
    return line;
  });
  const same = wanted.length === body.children.length && wanted.every((line, place) => line === body.children[place]);
  if (!same) {
    const focused = document.activeElement;
    body.replaceChildren(...wanted);
    if (wanted.includes(focused)) focused.focus({ preventScroll: true });
  }
  tick(body);
  body.setAttribute("aria-busy", "false");
}

export function tick(body) {
  const now = Date.now();
  for (const due of body.querySelectorAll("time.relative")) {
    const left = new Date(due.dateTime) - now;
    const late = left < 0 && !due.closest(".is-read");
    due.textContent = Math.abs(left) < 60000 ? t("dueNow") : t(left < 0 ? "overdue" : "inTime", span(left));
    due.parentElement.classList.toggle("late", late);
    due.parentElement.classList.toggle("soon", left >= 0 && left < 15 * 60000);
  }
}

export function mark(body, uid, { focus = false } = {}) {
  for (const line of body.children) {
    const chosen = line.dataset.uid === uid;
    line.tabIndex = chosen ? 0 : -1;
    line.setAttribute("aria-selected", String(chosen));
    if (chosen && focus) {
      line.focus({ preventScroll: true });
      line.scrollIntoView({ block: "nearest" });
    }
  }
  if (!uid && body.firstElementChild) body.firstElementChild.tabIndex = 0;
}
