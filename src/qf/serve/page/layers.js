// The layer sweep as a picture: shares of right answers by the layer that was taught.

import { call, events } from "./api.js";
import { announce, byId, h, percent, showError, svg } from "./dom.js";
import { may } from "./state.js";

const SERIES = [
  ["same", "same words"],
  ["other", "other words"],
  ["kept", "known before, kept"],
];
const HEIGHT = 230;
const EDGE = { left: 40, right: 12, top: 14, bottom: 34 };

let running = null;
let fetched = false;

export function startLayers() {
  byId("measure").addEventListener("click", measure);
  byId("measure-stop").addEventListener("click", () => running?.abort());
}

/** What was measured before, when the tab is first opened. */
export async function openLayers() {
  if (fetched || running) return;
  fetched = true;
  try {
    const { data, best, layer, count } = await call("/v1/layers");
    if (data.length) draw(data, { best, layer, count });
  } catch (error) {
    fetched = false;
    showError(byId("measure-error"), error);
  }
}

async function measure() {
  if (running) return;
  showError(byId("measure-error"), may("teach") ? null : "This key may not teach, which measuring does: choose another key.");
  if (!may("teach")) return;
  running = new AbortController();
  busy(true, "Teaching a few lessons at each layer …");
  let place = { best: null, layer: null, count: null };
  const data = [];
  try {
    const known = await call("/v1/layers", { signal: running.signal });
    place = { ...place, layer: known.layer, count: known.count };
    for await (const event of events("/v1/layers", { method: "POST", body: {}, signal: running.signal })) {
      if (event.event === "layer") data.push(event.data);
      if (event.event === "done") place.best = event.data.best;
      draw(data, place);
      busy(true, `Layer ${data.length} of ${place.count ?? "…"}`);
    }
    announce(`Measured ${data.length} layers, best is layer ${place.best}.`);
    busy(false, "");
  } catch (error) {
    busy(false, error.name === "AbortError" ? "Stopped." : "");
    if (error.name !== "AbortError") showError(byId("measure-error"), error);
  } finally {
    running = null;
  }
}

function busy(yes, text) {
  const had = document.activeElement;
  byId("measure").hidden = yes;
  byId("measure-stop").hidden = !yes;
  if (yes && had === byId("measure")) byId("measure-stop").focus();
  if (!yes && had === byId("measure-stop")) byId("measure").focus();
  byId("measure-state").textContent = text;
}

function draw(data, { best, layer, count }) {
  if (!data.length) return;
  const layers = Math.max(count ?? 0, ...data.map((score) => score.layer + 1));
  byId("sweep").replaceChildren(chart(data, layers, best), key(), caption(best, layer), table(data));
  byId("sweep").hidden = false;
}

function chart(data, layers, best) {
  const width = Math.min(480, Math.max(260, byId("panel-layers").clientWidth - 36)); // so that type keeps its size
  const x = (i) => EDGE.left + ((width - EDGE.left - EDGE.right) * (i + 0.5)) / layers;
  const y = (share) => EDGE.top + (HEIGHT - EDGE.top - EDGE.bottom) * (1 - share);
  const step = Math.ceil(layers / 16);
  const band = (width - EDGE.left - EDGE.right) / layers;
  const told = data.map((s) => `layer ${s.layer}: ${SERIES.map(([k, name]) => `${name} ${percent(s[k])}`).join(", ")}`);
  const element = svg(
    "svg",
    { viewBox: `0 0 ${width} ${HEIGHT}`, class: "chart", role: "img", "aria-label": `Right answers by the layer taught; ${told.join("; ")}` },
    best === null || best === undefined
      ? null
      : svg("rect", { class: "best", x: x(best) - band / 2, y: EDGE.top, width: band, height: y(0) - EDGE.top, rx: 4 }),
    ...[0, 0.5, 1].flatMap((share) => [
      svg("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y(share), y2: y(share) }),
      svg("text", { class: "tick", x: EDGE.left - 8, y: y(share) + 4, "text-anchor": "end" }, percent(share)),
    ]),
    ...Array.from({ length: layers }, (_, i) => i)
      .filter((i) => i % step === 0)
      .map((i) => svg("text", { class: "tick", x: x(i), y: y(0) + 18, "text-anchor": "middle" }, String(i))),
    svg("text", { class: "tick", x: width - EDGE.right, y: HEIGHT - 2, "text-anchor": "end" }, "layer taught"),
  );
  for (const [name] of [...SERIES].reverse()) {
    element.append(
      svg("polyline", { class: `line ${name}`, points: data.map((s) => `${x(s.layer)},${y(s[name])}`).join(" ") }),
      ...data.map((s) => marker(name, x(s.layer), y(s[name]))),
    );
  }
  return element;
}

/** Circle, square, triangle: what tells the lines apart where colours do not. */
function marker(name, x, y) {
  if (name === "same") return svg("circle", { class: "dot same", cx: x, cy: y, r: 4.5 });
  if (name === "other") return svg("rect", { class: "dot other", x: x - 3.5, y: y - 3.5, width: 7, height: 7 });
  return svg("path", { class: "dot kept", d: `M${x} ${y - 4.500}l4.500 8h-9z` });
}

function key() {
  return h(
    "ul",
    { class: "key", "aria-hidden": "true" },
    ...SERIES.map(([name, text]) =>
      h(
        "li",
        {},
        svg(
          "svg",
          { viewBox: "0 0 34 14", class: "swatch" },
          svg("line", { class: `line ${name}`, x1: 1, x2: 33, y1: 7, y2: 7 }),
          marker(name, 17, 7),
        ),
        text,
      ),
    ),
  );
}

function caption(best, layer) {
  const found = best === null || best === undefined ? "" : `Best: layer ${best}. `;
  return h("figcaption", {}, `${found}Facts are taught at layer ${layer ?? "?"}.`);
}

function table(data) {
  const head = ["Layer", ...SERIES.map(([, name]) => name), "score"];
  return h(
    "details",
    { class: "raw" },
    h("summary", {}, "As a table"),
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, ...head.map((name) => h("th", { scope: "col" }, name)))),
      h(
        "tbody",
        {},
        ...data.map((s) =>
          h("tr", {}, h("th", { scope: "row" }, String(s.layer)), ...SERIES.map(([name]) => h("td", {}, percent(s[name]))), h("td", {}, s.score.toFixed(2))),
        ),
      ),
    ),
  );
}
