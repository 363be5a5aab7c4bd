// The conversation: questions, streamed answers, and the moments at which something was learned.

import { ApiError, events } from "./api.js";
import { announce, byId, fieldError, growing, h } from "./dom.js";
import { may, on, state } from "./state.js";

const KEPT = 8; // earlier messages that go along with a question
const WORDS = { learned: "Learned", forgot: "Forgot", restored: "Restored" };

let conversation = []; // {role, content}, as sent
let running = null; // AbortController of the answer that is coming

export function startChat() {
  const question = byId("question");
  const fit = growing(question);
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    ask(question.value, fit);
  });
  question.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!running) ask(question.value, fit);
  });
  question.addEventListener("input", () => fieldError("question", null));
  byId("stop").addEventListener("click", () => running?.abort());
  byId("new-conversation").addEventListener("click", () => {
    begin();
    question.focus();
  });
  on("space", begin);
  on("happened", mark);
}

/** Put a question and have it answered, as if it had been typed. */
export function ask(text, fit = () => {}) {
  const question = text.trim();
  const fault = refused(question);
  fieldError("question", fault);
  if (fault) return byId("question").focus();
  if (running) return undefined;
  byId("question").value = "";
  fit();
  return answer(question);
}

function refused(question) {
  const most = state.limits.prompt_chars;
  if (!question) return "Write a question first.";
  if (most && question.length > most)
    return `A question may have ${most.toLocaleString("en")} characters; this one has ${question.length.toLocaleString("en")}.`;
  return may("chat") ? null : "This key may not ask in this space: choose another space or key.";
}

async function answer(question) {
  const bare = byId("bare").checked;
  const text = h("p", { class: "said waiting" });
  const problem = h("p", { class: "error", role: "alert", hidden: true });
  add(h("li", { class: "turn user" }, h("span", { class: "unseen" }, "You: "), h("p", { class: "said" }, question)));
  add(
    h(
      "li",
      { class: "turn model", "aria-busy": "true" },
      h("p", { class: "who" }, bare ? "Model, without its memory" : "Model"),
      text,
      problem,
    ),
  );
  const asked = conversation;
  const mine = new AbortController();
  busy(mine);
  let said = "";
  try {
    const earlier = conversation.slice(-KEPT);
    for await (const piece of reply(question, earlier, bare, mine.signal, problem)) {
      said += piece;
      text.classList.remove("waiting");
      text.textContent = said;
      follow();
    }
    announce(`The model: ${said || "nothing"}`);
    if (!said) text.textContent = "(It says nothing.)";
  } catch (error) {
    if (error.name === "AbortError") {
      said ||= "(Stopped.)";
      text.textContent = said;
    } else {
      problem.textContent = error.message;
      problem.hidden = false;
    }
  } finally {
    text.classList.remove("waiting");
    text.closest("li").removeAttribute("aria-busy");
    if (said && !bare && asked === conversation)
      conversation.push({ role: "user", content: question }, { role: "assistant", content: said });
    if (running === mine) busy(null);
    follow();
  }
  if (state.model.learn_from_chat) document.dispatchEvent(new CustomEvent("memory-may-differ"));
}

/** The answer's pieces; turns that no longer fit into the context are left out, the oldest first. */
async function* reply(question, earlier, bare, signal, note) {
  for (;;) {
    const messages = [...(bare ? [] : earlier), { role: "user", content: question }];
    const body = { model: bare ? "qf/base" : `qf/${state.space}`, messages, stream: true };
    try {
      for await (const { data } of events("/v1/chat/completions", { body, signal })) {
        const piece = data.choices?.[0]?.delta?.content;
        if (piece) yield piece;
      }
      return;
    } catch (error) {
      const long = error instanceof ApiError && error.code === "context_length_exceeded";
      if (!long || !earlier.length) throw error;
      earlier = earlier.slice(2);
      note.textContent = "Earlier turns no longer fit and were left out.";
      note.className = "hint";
      note.hidden = false;
    }
  }
}

/**
 * A line in the conversation where the memory changed. The turns before it go along no more: the
 * model would read in them what it has forgotten.
 */
function mark({ kind, statement }) {
  if (!WORDS[kind]) return;
  conversation = [];
  add(
    h("li", { class: `turn moment ${kind}` }, h("span", { class: "act" }, WORDS[kind]), " ", h("span", {}, statement)),
  );
}

function add(item) {
  byId("opening").hidden = true;
  byId("new-conversation").hidden = false;
  byId("turns").append(item);
  follow();
}

function begin() {
  running?.abort();
  conversation = [];
  byId("turns").replaceChildren();
  byId("opening").hidden = false;
  byId("new-conversation").hidden = true;
  fieldError("question", null);
}

function busy(controller) {
  running = controller;
  const had = document.activeElement;
  byId("send").hidden = Boolean(controller);
  byId("stop").hidden = !controller;
  if (had === byId("stop") || had === byId("send")) byId("question").focus();
}

function follow() {
  const scroller = byId("chat-scroll");
  scroller.scrollTop = scroller.scrollHeight;
}

/** Questions to try, as buttons. */
export function suggest(questions) {
  byId("suggestions").replaceChildren(
    ...questions.map((text) => h("li", {}, h("button", { type: "button", class: "suggestion", onclick: () => ask(text) }, text))),
  );
}
