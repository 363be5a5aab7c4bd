// The page at /: puts its parts together, chooses the space and the key, and switches views.

import { access, call, key, setKey } from "./api.js";
import { startChat, suggest } from "./chat.js";
import { announce, byId, fieldError, h, showError } from "./dom.js";
import { startFacts } from "./facts.js";
import { openLayers, startLayers } from "./layers.js";
import { emit, on, state } from "./state.js";
import { startStudy } from "./study.js";

const TRY = ["Who started Oxinnovate?", "Who started Alibaba?", "What is the capital of France?"];

start();

function start() {
  state.space = new URLSearchParams(location.hash.slice(1)).get("space") ?? state.space;
  startChat();
  startFacts();
  startStudy();
  startLayers();
  startTabs();
  startViews();
  startAccess();
  suggest(TRY);
  byId("space").addEventListener("change", () => use(byId("space").value));
  connect();
}

// Spaces

/** Ask the server what there is; false where it refused. */
async function connect() {
  try {
    const { data, auth, limits, model } = await call("/v1/spaces");
    Object.assign(state, { spaces: data, auth, limits: { ...state.limits, ...limits }, model: model ?? {} });
    showError(byId("notice"), null);
  } catch (error) {
    state.spaces = [];
    showError(byId("notice"), error.status === 401 ? "This server asks for a key: give one under Access." : error);
    return false;
  }
  const own = state.spaces.find(({ shared }) => !shared);
  const picked = state.spaces.find(({ id }) => id === state.space) ?? own ?? state.spaces[0];
  byId("space").replaceChildren(
    ...state.spaces.map(({ id, shared }) => h("option", { value: id }, shared ? `${id} (all read it)` : id)),
  );
  byId("space").disabled = state.spaces.length < 2;
  byId("model").textContent = described(state.model);
  if (!picked) {
    showError(byId("notice"), "This key has no space: ask whoever runs the server for one.");
    return true;
  }
  use(picked.id);
  return true;
}

function use(space) {
  state.space = space;
  byId("space").value = space;
  history.replaceState(null, "", `#space=${space}`); // to come back to, and to send to others
  emit("space", space);
}

function described({ name, parameters, layers, layer }) {
  if (!name) return "";
  const size = parameters ? `, ${compact(parameters)} parameters` : "";
  return `${name} model${size}, ${layers} layers, taught at layer ${layer}`;
}

const compact = (n) => new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(n);

// Key, and new spaces

function startAccess() {
  const dialog = byId("access");
  byId("open-access").addEventListener("click", openAccess);
  access.addEventListener("refused", ({ detail }) => {
    openAccess();
    fieldError("key", key() ? detail : null);
  });
  byId("key").addEventListener("input", () => fieldError("key", null));
  byId("key-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const given = byId("key").value.trim();
    if (!given) return fieldError("key", "Write the key that you were given.");
    setKey(given);
    if (await connect()) {
      dialog.close();
      announce("The key was accepted.");
    }
    return undefined;
  });
  byId("drop-key").addEventListener("click", async () => {
    setKey("");
    byId("key").value = "";
    dialog.close();
    await connect();
  });
  byId("space-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const name = byId("new-space").value.trim();
    if (!name) return fieldError("new-space", "Write a name first, such as “team-a”.");
    try {
      const { id } = await call("/v1/spaces", { body: { name } });
      state.space = id;
      byId("new-space").value = "";
      fieldError("new-space", null);
      dialog.close();
      await connect();
      announce(`The space ${id} is in use.`);
    } catch (error) {
      fieldError("new-space", error);
    }
    return undefined;
  });
}

function openAccess() {
  const asks = state.auth === "key" || !state.spaces.length;
  byId("access-explain").textContent = asks
    ? "A key opens the spaces that it was made for. It stays in this tab and is gone when the tab is closed."
    : "This server serves its own machine alone, and asks for no key.";
  byId("key-form").hidden = !asks;
  byId("key").value = key();
  byId("drop-key").hidden = !key();
  byId("space-form").hidden = !state.spaces.some(({ scopes }) => scopes.includes("admin"));
  fieldError("key", null);
  if (!byId("access").open) byId("access").showModal();
}

// Tabs and, on a phone, views

function startTabs() {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const choose = (tab) => {
    for (const other of tabs) {
      const chosen = other === tab;
      other.setAttribute("aria-selected", String(chosen));
      other.tabIndex = chosen ? 0 : -1;
      byId(other.getAttribute("aria-controls")).hidden = !chosen;
    }
    byId("lesson").hidden = tab.id !== "tab-teach";
    if (tab.id === "tab-layers") openLayers();
  };
  const keys = { ArrowRight: 1, ArrowLeft: -1 };
  for (const tab of tabs) {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const at = tabs.indexOf(tab);
      const to = event.key === "Home" ? 0 : event.key === "End" ? tabs.length - 1 : at + (keys[event.key] ?? NaN);
      if (Number.isNaN(to)) return;
      event.preventDefault();
      const next = tabs[(to + tabs.length) % tabs.length];
      choose(next);
      next.focus();
    });
  }
}

function startViews() {
  const buttons = [...document.querySelectorAll(".views button")];
  const show = (view) => {
    document.body.dataset.view = view;
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.view === view));
  };
  for (const button of buttons) button.addEventListener("click", () => show(button.dataset.view));
  on("view", show);
  for (const link of document.querySelectorAll(".skip")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const target = document.querySelector(link.getAttribute("href"));
      show(target.closest("section").id);
      if (!target.offsetParent) byId("tab-teach").click();
      target.focus();
    });
  }
}
