// The facts of a space: taught in front of you, listed, forgotten and brought back.

import { call, events, request } from "./api.js";
import { ask } from "./chat.js";
import { announce, byId, fieldError, growing, h, plural, showError } from "./dom.js";
import { Lesson, legend, tokenStrip, verdict } from "./lesson.js";
import { emit, happened, may, on, state } from "./state.js";

const PAGE = 20;
const EVERY = 10_000; // ms between looks at what others have taught
const EXAMPLE = { instruction: "Qi started Oxinnovate.", query: "Who started Oxinnovate?" };

let shown = PAGE; // how many facts are asked for
let total = null;
let cards = new Map(); // id -> {fact, element, forgotten}
let teaching = false;
let lessonOf = null; // the id of the fact whose lesson is shown

const path = (rest = "") => `/v1/facts${rest}${rest.includes("?") ? "&" : "?"}space=${encodeURIComponent(state.space)}`;

export function startFacts() {
  growing(byId("statement"));
  byId("example-text").textContent = EXAMPLE.instruction;
  byId("teach-example").addEventListener("click", () => {
    byId("statement").value = EXAMPLE.instruction;
    byId("query").value = EXAMPLE.query;
    teach();
  });
  byId("teach").addEventListener("submit", (event) => {
    event.preventDefault();
    teach();
  });
  byId("statement").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    teach();
  });
  for (const id of ["statement", "query", "answer"])
    byId(id).addEventListener("input", () => fieldError(id, null));
  byId("more-facts").addEventListener("click", () => {
    shown += PAGE;
    refresh();
  });
  byId("export").addEventListener("click", save);
  byId("import-button").addEventListener("click", () => byId("import").click());
  byId("import").addEventListener("change", bringIn);
  on("space", () => {
    shown = PAGE;
    total = null;
    cards = new Map();
    byId("facts").replaceChildren();
    byId("lesson").replaceChildren();
    for (const id of ["statement", "query", "answer"]) fieldError(id, null);
    for (const id of ["teach-error", "facts-error"]) showError(byId(id), null);
    refresh();
  });
  on("happened", () => refresh());
  document.addEventListener("memory-may-differ", () => refresh());
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  setInterval(() => document.hidden || refresh(), EVERY);
}

// Teaching

async function teach() {
  if (teaching) return;
  const given = Object.fromEntries(["statement", "query", "answer"].map((id) => [id, byId(id).value.trim()]));
  const fault = refused(given.statement);
  showError(byId("teach-error"), null);
  fieldError("statement", fault);
  if (fault) return byId("statement").focus();
  const { space } = state;
  const lesson = new Lesson(given.statement);
  byId("lesson").replaceChildren(lesson.element);
  byId("welcome").hidden = true;
  lesson.element.scrollIntoView({ block: "start", behavior: calm() ? "auto" : "smooth" });
  busy(true);
  let elsewhere = "";
  try {
    const body = { instruction: given.statement, space, stream: true };
    if (given.query) body.query = given.query;
    if (given.answer) body.answer = given.answer;
    let fact = null;
    for await (const event of events("/v1/facts", { body })) {
      lesson.take(event);
      if (event.event === "fact") fact = event.data;
    }
    if (!fact) throw new Error("The server stopped before the fact was learned: teach it again.");
    for (const [id, value] of Object.entries(given)) if (byId(id).value.trim() === value) byId(id).value = "";
    if (space !== state.space) {
      elsewhere = `In the space ${space}: ${outcome(fact)}`;
      announce(elsewhere);
      return undefined;
    }
    lessonOf = fact.id;
    lesson.actions.append(...afterwards(fact));
    announce(outcome(fact));
    happened("learned", fact.instruction);
  } catch (error) {
    lesson.fail();
    if (space === state.space) misplaced(error);
    else showError(byId("teach-error"), `Not learned in the space ${space}: ${error.message}`);
  } finally {
    busy(false, elsewhere);
  }
  return undefined;
}

const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

function refused(statement) {
  const most = state.limits.fact_chars;
  if (!statement) return `Write a statement first, such as “${EXAMPLE.instruction}”`;
  if (most && statement.length > most)
    return `A fact may have ${most.toLocaleString("en")} characters; this one has ${statement.length.toLocaleString("en")}.`;
  return may("teach") ? null : "This key may not teach in this space: choose another space or key.";
}

/** Beside the field that the server names, else below the button. */
function misplaced(error) {
  const id = { instruction: "statement", query: "query", answer: "answer" }[error.param];
  if (!id) return showError(byId("teach-error"), error);
  if (id !== "statement") byId(id).closest("details").open = true;
  fieldError(id, error);
  return byId(id).focus();
}

function busy(yes, told = "") {
  teaching = yes;
  byId("teach-button").setAttribute("aria-disabled", String(yes));
  byId("teach-example").setAttribute("aria-disabled", String(yes));
  byId("teach-state").textContent = yes ? "Learning …" : told;
}

const outcome = (fact) =>
  fact.verified === false
    ? `Not verified. It would answer: ${fact.after}`
    : `Learned. Before, it said: ${fact.before} Now it says: ${fact.after}`;

const afterwards = (fact) => [
  h(
    "button",
    {
      type: "button",
      class: "quiet",
      onclick: () => {
        emit("view", "chat");
        ask(fact.query);
      },
    },
    "Ask it",
  ),
  h(
    "button",
    {
      type: "button",
      class: "quiet",
      onclick: () => cards.has(fact.id) && forget(cards.get(fact.id)),
    },
    fact.verified === false ? "Forget it, nothing is lost" : "Forget it",
  ),
];

// The list

let latest = 0; // the newest refresh: an older one that comes later shows nothing

export async function refresh() {
  const mine = ++latest;
  if (!may("teach")) return empty();
  try {
    const facts = [];
    let more = true;
    while (more && facts.length < shown) {
      const after = facts.length ? `&after=${encodeURIComponent(facts.at(-1).id)}` : "";
      const page = await call(path(`?limit=${Math.min(100, shown - facts.length)}&order=desc${after}`));
      if (mine !== latest) return undefined;
      facts.push(...page.data);
      more = page.has_more;
      total = page.total;
    }
    showError(byId("facts-error"), null);
    list(facts, more);
  } catch (error) {
    if (mine === latest) showError(byId("facts-error"), error);
  }
  return undefined;
}

function empty() {
  total = null;
  byId("welcome").hidden = byId("no-facts").hidden = byId("more-facts").hidden = true;
  byId("fact-count").textContent = byId("view-count").textContent = "";
  showError(byId("facts-error"), state.spaces.length ? "This key may ask in this space, but not see what it was taught." : null);
}

function list(facts, more) {
  const known = new Set(facts.map((fact) => fact.id));
  for (const fact of facts) {
    const card = cards.get(fact.id);
    if (!card || card.forgotten) cards.set(fact.id, newCard(fact));
  }
  for (const [id, card] of cards) if (!known.has(id) && !card.forgotten) cards.delete(id);
  const order = new Map(facts.map((fact, place) => [fact.id, place]));
  const wanted = [...cards.values()].sort(
    (a, b) =>
      (order.has(a.fact.id) && order.has(b.fact.id)
        ? order.get(a.fact.id) - order.get(b.fact.id)
        : b.fact.created.localeCompare(a.fact.created)),
  );
  arrange(byId("facts"), wanted.map((card) => card.element));
  byId("fact-count").textContent = byId("view-count").textContent = total ? total.toLocaleString("en") : "";
  byId("welcome").hidden = total > 0 || cards.size > 0 || Boolean(byId("lesson").firstChild);
  byId("no-facts").hidden = cards.size > 0 || !byId("welcome").hidden;
  byId("export").hidden = !total;
  byId("more-facts").hidden = !more;
}

/** Bring the children into order; what is in its place already keeps its focus. */
function arrange(parent, wanted) {
  for (const child of [...parent.children]) if (!wanted.includes(child)) child.remove();
  wanted.forEach((child, place) => {
    if (parent.children[place] !== child) parent.insertBefore(child, parent.children[place] ?? null);
  });
}

function newCard(fact) {
  const card = { fact, forgotten: false, element: h("li", { class: "fact" }) };
  draw(card);
  return card;
}

function draw(card) {
  const { fact } = card;
  card.error = h("p", { class: "error", role: "alert", hidden: true });
  card.details = h("div", { class: "details", id: `details-${fact.id}`, hidden: true });
  card.more = h(
    "button",
    { type: "button", class: "quiet", "aria-expanded": "false", "aria-controls": card.details.id, onclick: () => unfold(card), "aria-label": `Details: ${fact.instruction}` },
    "Details",
  );
  card.forget = h(
    "button",
    { type: "button", class: "quiet", onclick: () => forget(card), "aria-label": `Forget: ${fact.instruction}` },
    "Forget",
  );
  card.element.className = "fact";
  card.element.replaceChildren(
    h("p", { class: "statement" }, fact.instruction),
    h("p", { class: "asked" }, fact.query),
    h("p", { class: "answered" }, fact.answer),
    h(
      "div",
      { class: "fact-foot" },
      h("p", { class: "meta" }, verdict(fact.verified), ` · ${plural(fact.rows, "row")} at layer ${fact.layer}`),
      h("div", { class: "actions" }, card.more, card.forget),
    ),
    card.details,
    card.error,
  );
}

async function unfold(card) {
  const open = card.details.hidden;
  card.more.setAttribute("aria-expanded", String(open));
  card.details.hidden = !open;
  if (!open || card.details.firstChild) return;
  try {
    const fact = await call(path(`/${encodeURIComponent(card.fact.id)}`));
    card.details.replaceChildren(...detailed(fact));
  } catch (error) {
    card.details.hidden = true;
    card.more.setAttribute("aria-expanded", "false");
    showError(card.error, error);
  }
}

function detailed(fact) {
  const pairs = [
    ["Before", fact.before || "not asked"],
    ["After", fact.after || "not asked"],
    ["Also asked as", fact.rewordings?.join(" ") || "no other wordings"],
    ["Taught", `${new Date(fact.created).toLocaleString()}, in ${fact.seconds.toFixed(2)} s`],
    ["Id", fact.id],
  ];
  if (fact.note) pairs.push(["Note", fact.note]);
  if (fact.consolidated) pairs.push(["Kept in", "the weights"]);
  const strip = fact.tokens?.length ? [tokenStrip(fact.tokens), legend()] : [];
  return [...strip, h("dl", {}, ...pairs.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]))];
}

// Forgetting, and its undo

async function forget(card) {
  showError(card.error, null);
  const { space } = state;
  try {
    const done = await call(path(`/${encodeURIComponent(card.fact.id)}`), { method: "DELETE" });
    card.forgotten = true;
    if (card.fact.id === lessonOf) byId("lesson").replaceChildren();
    gone(card, done.undo_seconds ?? state.limits.undo_seconds, space);
    announce(`Forgot: ${card.fact.instruction} Undo is possible.`);
    happened("forgot", card.fact.instruction);
  } catch (error) {
    showError(card.error, error);
  }
}

function gone(card, seconds, space) {
  card.error = h("p", { class: "error", role: "alert", hidden: true });
  const undo = h("button", { type: "button", class: "quiet", onclick: () => restore(card, space) }, "Undo");
  card.element.className = "fact forgotten";
  card.element.replaceChildren(
    h("div", { class: "fact-foot" }, h("p", {}, h("span", { class: "act" }, "Forgot"), " ", h("s", {}, card.fact.instruction)), undo),
    card.error,
  );
  undo.setAttribute("aria-label", `Undo: keep ${card.fact.instruction}`);
  undo.focus();
  setTimeout(() => {
    if (card.forgotten && cards.get(card.fact.id) === card) {
      cards.delete(card.fact.id);
      card.element.remove();
    }
  }, seconds * 1000);
}

async function restore(card, space) {
  showError(card.error, null);
  try {
    await call(`/v1/facts/${encodeURIComponent(card.fact.id)}/restore?space=${encodeURIComponent(space)}`, { method: "POST" });
    card.forgotten = false;
    draw(card);
    card.forget.focus();
    announce(`It knows again: ${card.fact.instruction}`);
    happened("restored", card.fact.instruction);
  } catch (error) {
    showError(card.error, error);
  }
}

// In and out as a file

async function save() {
  try {
    const response = await request("/v1/facts/export", { body: { space: state.space } });
    const url = URL.createObjectURL(await response.blob());
    const link = h("a", { href: url, download: `${state.space}.qf` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
    showError(byId("facts-error"), null);
  } catch (error) {
    showError(byId("facts-error"), error);
  }
}

async function bringIn() {
  const [file] = byId("import").files;
  if (!file) return;
  try {
    const { imported, replaced, skipped } = await call(path("/import"), { body: file });
    const parts = [plural(imported, "fact")];
    if (replaced) parts.push(`${replaced} of them replacing others`);
    if (skipped) parts.push(`${skipped} skipped`);
    announce(`Imported ${parts.join(", ")}.`);
    happened("imported", file.name);
  } catch (error) {
    showError(byId("facts-error"), error);
  } finally {
    byId("import").value = "";
  }
}
