// Talks to the studio's backend and builds elements; the other modules hold no fetch and no innerHTML.

export class Refused extends Error {}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Refused("The local stack does not answer. Is it still running?");
  }
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(body.sentence ?? "Something went wrong in the studio. Its terminal says more.");
  return body;
}

export const get = (path) => ask(path);

export function post(path, fields = {}) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value !== null && value !== undefined && value !== "") form.append(name, value);
  }
  return ask(path, { method: "POST", body: form });
}

/** An element: attributes by name, `on…` listeners as functions, children as nodes or text. */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export const seconds = (value) => `${value.toFixed(value < 1 ? 2 : 1)} s`;

/** Scrolls to what a press of a button brought, where it stands below the form. */
export function reveal(element) {
  if (!matchMedia("(max-width: 46rem)").matches) return;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  element.scrollIntoView({ block: "start", behavior: still ? "auto" : "smooth" });
}

/** Runs `work` with the button marked busy and what goes wrong said in `complaint`. */
export async function busy(button, complaint, work) {
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true");
  complaint.textContent = "";
  try {
    await work();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    complaint.textContent = error.message;
  } finally {
    button.removeAttribute("aria-disabled");
  }
}
