// A text is studied: one fact of each sentence, as far as they verify.

import { events } from "./api.js";
import { announce, byId, fieldError, h, plural, showError } from "./dom.js";
import { happened, may, on, state } from "./state.js";

let running = null; // AbortController of the study in progress

export function startStudy() {
  byId("study").addEventListener("submit", (event) => {
    event.preventDefault();
    study();
  });
  byId("study-stop").addEventListener("click", () => running?.abort());
  byId("document").addEventListener("input", () => fieldError("document", null));
  byId("file").addEventListener("change", read);
  on("space", () => {
    running?.abort();
    byId("studied").hidden = true;
    fieldError("document", null);
    showError(byId("study-error"), null);
  });
}

async function read() {
  const [file] = byId("file").files;
  byId("file").value = "";
  if (!file) return;
  const most = state.limits.body_bytes ?? Infinity;
  if (file.size > most) {
    fieldError("document", `${file.name} has ${file.size.toLocaleString("en")} bytes, and ${most.toLocaleString("en")} may be sent at once: study a part of it.`);
    return;
  }
  try {
    byId("document").value = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    fieldError("document", null);
    byId("document").focus();
  } catch {
    fieldError("document", `${file.name} is not a text in UTF-8.`);
  }
}

async function study() {
  if (running) return;
  const text = byId("document").value.trim();
  const fault = !text
    ? "Write or open a text first."
    : may("teach")
      ? null
      : "This key may not teach in this space: choose another space or key.";
  fieldError("document", fault);
  showError(byId("study-error"), null);
  if (fault) return byId("document").focus();
  const mine = new AbortController();
  let learned = 0;
  begin(mine);
  try {
    for await (const { event, data } of events("/v1/facts/study", { body: { text, space: state.space }, signal: mine.signal })) {
      if (event === "start") progress(0, data.total);
      if (event === "statement") {
        progress(data.index, data.total);
        byId("statements").append(statement(data));
        if (data.fact) {
          learned += 1;
          document.dispatchEvent(new CustomEvent("memory-may-differ"));
        }
      }
      if (event === "done") {
        byId("study-label").textContent = `Learned ${plural(data.learned, "fact")}${data.left_out ? `, left out ${data.left_out}` : ""}`;
        announce(`${byId("study-label").textContent}.`);
      }
    }
  } catch (error) {
    if (error.name === "AbortError") byId("study-label").textContent = `Stopped, ${plural(learned, "fact")} learned`;
    else {
      byId("studied").hidden = !byId("statements").children.length;
      if (error.param === "text") fieldError("document", error);
      else showError(byId("study-error"), error);
    }
  } finally {
    end();
    if (learned) happened("learned", plural(learned, "fact") + " of a text");
  }
  return undefined;
}

function begin(controller) {
  running = controller;
  byId("study-stop").hidden = false;
  byId("study-button").hidden = true;
  byId("study-stop").focus();
  byId("studied").hidden = false;
  byId("statements").replaceChildren();
  byId("study-label").textContent = "Studying";
  byId("study-count").textContent = "";
  byId("study-progress").removeAttribute("value");
}

function end() {
  const focused = document.activeElement === byId("study-stop");
  running = null;
  byId("study-button").hidden = false;
  byId("study-stop").hidden = true;
  if (focused) byId("study-button").focus();
}

function progress(done, total) {
  const bar = byId("study-progress");
  bar.max = Math.max(total, 1);
  bar.value = done;
  byId("study-count").textContent = `${done} of ${plural(total, "sentence")}`;
}

function statement({ statement: text, fact, why }) {
  return h(
    "li",
    { class: fact ? "studied-one learned" : "studied-one" },
    h("p", { class: "statement" }, text),
    fact
      ? h("p", { class: "hint" }, h("span", { class: "act" }, "Learned"), ` ${fact.query}`)
      : h("p", { class: "hint" }, h("span", { class: "left" }, "Left out"), ` ${why}`),
  );
}
