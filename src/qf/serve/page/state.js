// What the parts of the page share: the space in use, the server's limits, and what has happened.

export const state = {
  space: "default",
  spaces: [], // as GET /v1/spaces gives them
  auth: "none",
  limits: { undo_seconds: 600 },
  model: {},
};

/** Events: "space" (another one is in use), "learned", "forgot", "restored" (a fact), "changed". */
export const bus = new EventTarget();

export const emit = (name, detail) => bus.dispatchEvent(new CustomEvent(name, { detail }));

export const on = (name, act) => bus.addEventListener(name, (event) => act(event.detail));

export const current = () => state.spaces.find((space) => space.id === state.space);

export const may = (scope) => current()?.scopes.includes(scope) ?? false;

// Other tabs of this browser hear of a change at once.
const tabs = "BroadcastChannel" in window ? new BroadcastChannel("qf") : null;

/** Something was taught or forgotten here: tell this page and the others. */
export function happened(kind, statement) {
  const what = { kind, statement, space: state.space };
  emit("happened", what);
  tabs?.postMessage(what);
}

tabs?.addEventListener("message", ({ data }) => {
  if (data.space === state.space) emit("happened", data);
});
