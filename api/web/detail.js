// One study beside the list: picture with window and level, every number with its source, the original file.

import { badge, dotted, element, patientName, person, study } from "./list.js";
import { getJson, request } from "./net.js";
import { clock, findingName, percent, reason, t } from "./strings.js";

const PICTURE_SIZE = 1024;

export class Detail {
  constructor(panel, actions) {
    this.panel = panel;
    this.actions = actions; // { close, toggleRead, report }
    this.item = null;
    this.turn = 0;
    this.toggleMap = () => {}; // of the picture that is shown
  }

  get uid() {
    return this.item?.study_uid ?? null;
  }

  close() {
    this.turn += 1;
    this.item = null;
    this.panel.hidden = true;
    this.toggleMap = () => {};
    this.panel.replaceChildren();
  }

  async open(item) {
    const turn = ++this.turn;
    this.item = item;
    this.panel.hidden = false;
    this.panel.replaceChildren(this.head(item), element("p", { className: "loading", textContent: t("loading") }));
    try {
      const [whole, scores, results] = await Promise.all(
        ["", "/findings", "/results"].map((part) => getJson(`api/studies/${item.study_uid}${part}`)));
      if (turn !== this.turn) return;
      const images = whole.series.flatMap((one) => one.instances).filter((one) => one.rows);
      this.panel.replaceChildren(this.head(item), this.viewer(item, images, turn, results.maps), this.scores(item, scores.items));
    } catch (error) {
      if (turn === this.turn) this.panel.querySelector(".loading").textContent = error.message;
    }
  }

  head(item) {
    const read = item.state === "read";
    return element("header", {},
      element("div", {},
        element("h2", { id: "detail-title", textContent: patientName(item) }),
        dotted("p", person(item)),
        dotted("p", [item.description, ...study(item), item.accession_number ? t("accession", item.accession_number) : ""]),
        element("p", {}, badge(item))),
      element("div", { className: "buttons" },
        element("button", { type: "button", className: "primary", textContent: t(read ? "reopen" : "markRead"), onclick: () => this.actions.toggleRead(item) }),
        element("button", { type: "button", className: "quiet", textContent: t("close"), onclick: () => this.actions.close() })));
  }

  viewer(item, images, turn, maps) {
    if (!images.length) return element("p", { textContent: "" });
    const picture = element("img", { className: "picture", alt: t("imageOf", patientName(item)), draggable: false });
    const note = element("p", { className: "note", role: "status" });
    const level = element("input", { type: "range", step: "any" });
    const width = element("input", { type: "range", step: "any" });
    const view = { shown: images[0], center: null, width: null, busy: false, again: false };

    const draw = async () => {
      if (view.busy) { view.again = true; return; }
      view.busy = true;
      const chosen = view.shown;
      const query = new URLSearchParams({ format: "jpeg", size: PICTURE_SIZE });
      if (view.center !== null) { query.set("window_center", view.center); query.set("window_width", view.width); }
      try {
        const answer = await request(`api/instances/${chosen.sop_uid}/rendered?${query}`);
        const body = await answer.blob();
        if (turn !== this.turn) return;
        if (chosen === view.shown) {
          URL.revokeObjectURL(picture.src);
          picture.src = URL.createObjectURL(body);
          note.textContent = "";
          if (view.center === null) settle(answer.headers);
        }
      } catch (error) {
        if (turn === this.turn) { picture.removeAttribute("src"); note.textContent = error.message; }
      } finally {
        view.busy = false;
        if (view.again) { view.again = false; draw(); }
      }
    };
    const settle = (headers) => {
      const [center, wide] = (headers.get("X-Window") ?? ",").split(",").map(Number);
      const [low, high] = (headers.get("X-Values") ?? ",").split(",").map(Number);
      sliders.hidden = !headers.get("X-Window");
      Object.assign(level, { min: Math.min(low, center), max: Math.max(high, center), value: center });
      Object.assign(width, { min: 1, max: Math.max(high - low, wide, 2), value: wide });
    };
    const set = (center, wide) => {
      [level.value, width.value] = [center, Math.max(1, wide)];
      [view.center, view.width] = [Number(level.value), Number(width.value)];
      draw();
    };
    level.oninput = width.oninput = () => set(level.value, width.value);
    picture.onpointerdown = (event) => picture.setPointerCapture(event.pointerId);
    picture.onpointermove = (event) => {
      if (!event.buttons || sliders.hidden) return;
      const step = (level.max - level.min) / 500;
      set(Number(level.value) + event.movementY * step, Number(width.value) + event.movementX * step);
    };
    const sliders = element("div", { className: "sliders" },
      element("label", {}, t("brightness"), level), element("label", {}, t("contrast"), width),
      element("button", { type: "button", className: "quiet", textContent: t("resetWindow"), onclick: () => { view.center = null; draw(); } }));
    const overlay = element("img", { className: "map", alt: "", hidden: true });
    const toggle = element("button", { type: "button", className: "quiet", ariaPressed: "false", title: t("mapHint"), onclick: () => show(overlay.hidden) },
      t("map"), " ", element("kbd", { textContent: "m" }));
    const show = async (wanted) => {
      const chosen = view.shown;
      toggle.hidden = !maps.includes(chosen.sop_uid);
      overlay.hidden = true;
      toggle.ariaPressed = "false";
      note.textContent = "";
      if (!wanted || toggle.hidden) return;
      try {
        const body = await (await request(`api/instances/${chosen.sop_uid}/map`)).blob();
        if (turn !== this.turn || chosen !== view.shown) return;
        URL.revokeObjectURL(overlay.src);
        overlay.src = URL.createObjectURL(body);
        overlay.hidden = false;
        note.textContent = t("mapHint");
        toggle.ariaPressed = "true";
      } catch (error) { note.textContent = error.message; }
    };
    this.toggleMap = () => show(overlay.hidden);
    const tabs = element("div", { className: "tabs", hidden: images.length < 2 });
    images.slice(0, 12).forEach((image, place) => tabs.append(element("button", {
      type: "button", textContent: place + 1, title: t("image", place + 1, images.length), ariaPressed: String(place === 0),
      onclick: (event) => {
        Object.assign(view, { shown: image, center: null });
        for (const other of tabs.children) other.ariaPressed = String(other === event.target);
        show(false);
        draw();
      },
    })));
    const original = element("button", { type: "button", className: "quiet", textContent: `↓ ${t("download")}`, onclick: () => this.download(view.shown) });
    show(false);
    draw();
    return element("section", { className: "viewer" }, tabs, element("div", { className: "film" }, picture, overlay), note, sliders,
      element("p", {}, original, " ", toggle));
  }

  async download(image) {
    try {
      const body = await (await request(`api/instances/${image.sop_uid}/file`)).blob();
      const link = element("a", { href: URL.createObjectURL(body), download: `${image.sop_uid}.dcm` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    } catch (error) {
      this.actions.report(error);
    }
  }

  scores(item, scores) {
    const section = element("section", { className: "scores" }, element("h3", { textContent: t("findings") }));
    if (!scores.length) section.append(element("p", { textContent: t("noScores", reason(item.reason).textContent || t(item.status)) }));
    for (const score of scores) {
      const body = element("tbody");
      for (const one of score.findings) {
        const bar = element("meter", { min: 0, max: 1, value: one.probability, high: one.threshold, optimum: 0 });
        body.append(element("tr", { className: one.probability >= one.threshold ? "above" : "" },
          element("th", { scope: "row", textContent: findingName(one.name) }),
          element("td", {}, bar, element("b", { textContent: percent(one.probability) })),
          element("td", { textContent: percent(one.threshold) })));
      }
      const notes = (score.notes ?? []).map((note) => element("p", { className: "note", ...reason(note) }));
      section.append(
        ...notes,
        element("table", {}, element("thead", {}, element("tr", {}, ...["finding", "probability", "threshold"].map(
          (name) => element("th", { scope: "col", textContent: t(name) })))), body),
        element("p", { className: "source", title: score.weights_sha256, textContent: t("source", score.model_name, score.model_version,
          score.weights_sha256.slice(0, 12), score.engine, Math.round(score.decode_ms), Math.round(score.inference_ms), clock(score.scored_at)) }));
    }
    return section;
  }
}
