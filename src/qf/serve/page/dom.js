// Elements without markup. What is shown goes in as text, so nothing that was taught becomes HTML.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** h("p", {class: "note", onclick: f}, "text", element): attributes, listeners and children. */
export function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

/** Tell a screen reader, once, without moving the focus. */
export function announce(text) {
  byId("status").textContent = "";
  requestAnimationFrame(() => (byId("status").textContent = text));
}

/** One sentence beside what caused it; null takes it away. `field` is marked as invalid. */
export function showError(place, error, field = null) {
  place.textContent = error ? String(error.message ?? error) : "";
  place.hidden = !error;
  if (!field) return;
  if (error) field.setAttribute("aria-invalid", "true");
  else field.removeAttribute("aria-invalid");
}

/** A form field by id with its error beside it, for showError. */
export function fieldError(id, error) {
  showError(byId(`${id}-error`), error, byId(id));
}

/** Let a textarea grow with its text. */
export function growing(area) {
  const fit = () => {
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
  };
  area.addEventListener("input", fit);
  return fit;
}

export const plural = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

export const percent = (share) => `${Math.round(100 * share)}%`;
