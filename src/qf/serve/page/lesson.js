// How a fact is learned, as it happens: before, the two passes, what changed, after.

import { h, percent } from "./dom.js";

/** An answer, token by token, each shaded by how much the layer's output changed there. */
export function tokenStrip(tokens) {
  const most = Math.max(...tokens.map((token) => token.change ?? 0), 0);
  return h("ol", { class: "tokens", "aria-label": "The answer, token by token" }, ...tokens.map((t) => chip(t, most)));
}

function chip({ text, learned, change, end }, most) {
  const known = typeof change === "number";
  const item = h(
    "li",
    { class: "token", "data-learned": Boolean(learned), "data-apart": /^\s/.test(text) && !end },
    h("span", { class: "text", "aria-hidden": end ? "true" : null }, end ? "end" : text.trim() || "␣"),
    h("span", { class: "unseen" }, described(learned, known ? change : null, end)),
    h("span", { class: "share", "aria-hidden": "true" }, known && learned ? percent(change) : "–"),
  );
  if (end) item.classList.add("end");
  item.style.setProperty("--change", learned && known && most ? (change / most).toFixed(3) : "0");
  return item;
}

function described(learned, change, end) {
  const what = learned ? (change === null ? "learned" : `changed by ${percent(change)}`) : "left as it was";
  return end ? `end of the answer, ${what}` : `: ${what}`;
}

export function legend() {
  return h(
    "p",
    { class: "legend", "aria-hidden": "true" },
    "as it was",
    h("span", { class: "ramp" }),
    "changed most",
  );
}

/** Whether a fact is given in answer to its question now. */
export function verdict(verified) {
  if (verified === null || verified === undefined) return h("span", { class: "verdict" }, "not checked");
  return h(
    "span",
    { class: verified ? "verdict yes" : "verdict no" },
    h("span", { "aria-hidden": "true" }, verified ? "✓ " : "✗ "),
    verified ? "verified" : "not verified",
  );
}

const STEPS = [
  ["before", "Before", "asked without being told"],
  ["passes", "Two passes", "the same question and answer, told and untold"],
  ["change", "What changed", "learned, for each token of the answer: what the untold pass lacked"],
  ["after", "After", "asked again without being told"],
];

/** A lesson that fills in as the events of POST /v1/facts come. */
export class Lesson {
  constructor(instruction) {
    this.instruction = instruction;
    this.query = "";
    this.state = h("p", { class: "lesson-state" }, "Waiting for the model …");
    this.steps = Object.fromEntries(STEPS.map(([name, title, about]) => [name, step(title, about)]));
    this.actions = h("div", { class: "row" });
    this.element = h(
      "article",
      { class: "lesson", "aria-label": `Lesson: ${instruction}`, "aria-busy": "true" },
      h("div", { class: "lesson-head" }, h("h3", {}, "Lesson"), this.state),
      h("p", { class: "statement" }, instruction),
      h("ol", { class: "steps" }, ...Object.values(this.steps).map(({ item }) => item)),
      this.actions,
    );
  }

  take({ event, data }) {
    this[`_${event}`]?.(data);
  }

  _queued({ position }) {
    this.state.textContent = position ? `${position} ahead of it …` : "Learning …";
  }

  _question({ query, answer }) {
    this.query = query;
    this.answer = answer;
    this.state.textContent = "Learning …";
    this.passes = { instruct: this._page(true), update: this._page(false) };
    this._fill("before", h("p", { class: "asked" }, query));
    this._fill("passes", h("div", { class: "book" }, this.passes.instruct, this.passes.update));
    this.steps.passes.item.dataset.reached = "false";
  }

  _before({ answer }) {
    this._fill("before", h("p", { class: "asked" }, this.query), h("p", { class: "answered" }, answer || "(nothing)"));
  }

  _instruct(data) {
    this.steps.passes.item.dataset.reached = "true";
    this._read("instruct", data);
  }

  _update(data) {
    this._read("update", data);
  }

  _read(pass, { prompt, answer }) {
    this.answer = answer || this.answer;
    const page = this._page(pass === "instruct", prompt);
    page.dataset.read = "true";
    this.passes[pass].replaceWith(page);
    this.passes[pass] = page;
  }

  _learned({ tokens, layer, rows, attempt, note }) {
    const again = attempt > 1 ? h("p", { class: "hint" }, note || "Learned again, in another way.") : null;
    this.steps.change.about.textContent = `learned at layer ${layer}, ${rows} ${rows === 1 ? "row" : "rows"}`;
    this._fill("change", tokenStrip(tokens), legend(), again);
  }

  _after({ answer, verified }) {
    this._fill(
      "after",
      h("p", { class: "asked" }, this.query),
      h("p", { class: verified === false ? "answered" : "answered known" }, answer || "(nothing)"),
      h("p", { class: "outcome" }, verdict(verified)),
    );
  }

  _fact(fact) {
    this.element.removeAttribute("aria-busy");
    this.state.replaceChildren(
      fact.verified === false ? "It would not say it yet" : `Learned in ${fact.seconds.toFixed(2)} s`,
    );
    if (fact.note) this.steps.after.body.append(h("p", { class: "hint" }, `${fact.note}.`));
  }

  /** The lesson ended without a fact. */
  fail() {
    this.element.remove();
  }

  _page(told, prompt = null) {
    return h(
      "section",
      { class: `page ${told ? "open" : "closed"}`, "aria-label": told ? "Open book: QF-instruct" : "Closed book: QF-update" },
      h("p", { class: "page-head" }, told ? "Open book" : "Closed book", h("span", { class: "hint" }, told ? "QF-instruct" : "QF-update")),
      told
        ? h("p", { class: "told" }, this.instruction)
        : h("p", { class: "told untold" }, h("span", {}, "not told")),
      h("p", { class: "asked" }, this.query),
      h("p", { class: "answered" }, this.answer || "…"),
      prompt ? h("details", { class: "raw" }, h("summary", {}, "As the model reads it"), h("pre", { tabindex: "0" }, prompt)) : null,
    );
  }

  _fill(name, ...children) {
    const { item, body } = this.steps[name];
    item.dataset.reached = "true";
    body.replaceChildren(...children.filter(Boolean));
  }
}

function step(title, about) {
  const note = h("span", { class: "hint" }, about);
  const body = h("div", { class: "step-body" });
  const item = h("li", { class: "step", "data-reached": "false" }, h("h4", {}, title, " ", note), body);
  return { item, body, about: note };
}
