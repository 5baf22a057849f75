import { busy, el, get, post, Refused, seconds } from "./api.js";

const DEPTHS = [
  ["tasks", "Task list", "pushed by the app"],
  ["inflight", "In the consumer", "being handed on"],
  ["celery", "Celery queue", "waiting for a worker"],
  ["again", "Once more", "retried or recovered"],
  ["unacked", "With workers", "taken, not confirmed"],
  ["dead", "Dead letters", "set aside"],
];
const STATES = {
  waiting: "waiting", working: "working", retrying: "waiting to retry", lost: "worker gone",
  completed: "completed", failed: "failed",
};
const EVERY_MS = 700;

const complaint = document.getElementById("queue-complaint");
const parts = Object.fromEntries(["depths", "workers", "happenings", "sessions", "letters", "how-to-kill"]
  .map((id) => [id, document.getElementById(id)]));
let watch = 0;

/** Look at the queue again and again while its tab is shown. */
export function showQueue(shown) {
  watch += 1;
  if (shown) look(watch);
}

async function look(mine) {
  while (mine === watch) {
    try {
      draw(await get("api/queue"));
      if (complaint.dataset.lost) {
        complaint.textContent = "";
        delete complaint.dataset.lost;
      }
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      complaint.textContent = error.message;
      complaint.dataset.lost = "yes";
    }
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

document.getElementById("fill").addEventListener("click", (event) => {
  busy(event.currentTarget, complaint, async () => drawHappenings(await post("api/queue/try-ons", { count: 6 })));
});
document.getElementById("push-invalid").addEventListener("click", (event) => {
  busy(event.currentTarget, complaint, async () => drawHappenings(await post("api/queue/invalid")));
});

function draw(view) {
  drawDepths(view.depths);
  drawWorkers(view.workers, view.how_to_kill);
  drawHappenings(view.events);
  drawSessions(view.sessions);
  drawLetters(view.dead_letters);
  parts["how-to-kill"].hidden = !view.how_to_kill;
  parts["how-to-kill"].textContent = view.how_to_kill ? `To kill a worker: ${view.how_to_kill}` : "";
}

function drawDepths(depths) {
  if (!parts.depths.children.length) {
    parts.depths.append(...DEPTHS.map(([key, name, note]) => el("li", { "data-depth": key },
      el("b", {}, "0"), el("span", {}, name), el("small", {}, note))));
  }
  for (const item of parts.depths.children) {
    const depth = depths[item.dataset.depth];
    item.querySelector("b").textContent = depth;
    item.classList.toggle("some", depth > 0);
  }
}

// Items are kept over redraws, so that a focused button stays focused.
function keep(list, keys, make) {
  const old = new Map([...list.children].map((item) => [item.dataset.key, item]));
  const items = keys.map((key) => {
    const item = old.get(key) ?? make(key);
    item.dataset.key = key;
    return item;
  });
  for (const item of list.children) if (!items.includes(item)) item.remove();
  items.forEach((item, index) => {
    if (list.children[index] !== item) list.insertBefore(item, list.children[index] ?? null);
  });
  return items;
}

function drawWorkers(workers, howToKill) {
  const items = keep(parts.workers, workers.map((worker) => worker.name), (name) => el("li", {},
    el("span", { class: "dot", "aria-hidden": "true" }), el("b", {}, name), el("span", { class: "doing" }),
    el("button", { type: "button", class: "danger", onclick: (event) => kill(event.currentTarget, name) },
      "Kill", el("span", { class: "unseen" }, ` ${name}`))));
  items.forEach((item, index) => {
    const worker = workers[index];
    item.dataset.state = worker.state;
    item.querySelector(".doing").textContent = doing(worker);
    item.querySelector("button").hidden = howToKill !== null || worker.kind !== "generator" || worker.state === "killed";
  });
}

function doing({ state, restarts_in: restartsIn, working, waiting }) {
  if (state === "killed") return restartsIn === null ? "does not answer" : `killed; another one in ${Math.ceil(restartsIn)} s`;
  if (state === "starting") return "starting";
  return working === null ? "ready" : `ready, ${working} in work, ${waiting} waiting`;
}

function kill(button, name) {
  busy(button, complaint, async () => drawHappenings(await post(`api/workers/${name}/kill`)));
}

function drawHappenings(happenings) {
  const items = keep(parts.happenings, happenings.map(({ number }) => String(number)), () => el("li"));
  items.forEach((item, index) => {
    const { at, text } = happenings[index];
    const time = new Date(at * 1000).toLocaleTimeString([], { hour12: false });
    if (!item.firstChild) item.append(el("time", {}, time), ` ${text}`);
  });
}

function drawSessions(sessions) {
  if (!sessions.length) {
    parts.sessions.replaceChildren(el("tr", {}, el("td", { colspan: 6, class: "none" }, "None yet.")));
    return;
  }
  const rows = keep(parts.sessions, sessions.map(({ id }) => id), (id) => el("tr", {},
    el("td", { class: "id", title: id }, id.slice(-8)),
    el("td", {}, el("span", { class: "state" }), el("small")),
    el("td", { class: "number" }), el("td"), el("td", { class: "number" }), el("td", { class: "number" })));
  rows.forEach((row, index) => {
    const { state, attempt, worker, lease_seconds: lease, seconds: taken, error_code: code } = sessions[index];
    row.dataset.state = state;
    row.querySelector(".state").textContent = STATES[state] ?? state;
    row.querySelector("small").textContent = code ?? "";
    const leased = lease === null ? "" : lease < 0 ? "ran out" : `${Math.round(lease)} s`;
    [attempt, worker ?? "", leased, seconds(taken)].forEach((text, column) => {
      row.cells[column + 2].textContent = text;
    });
  });
}

function drawLetters(letters) {
  if (!letters.length) {
    parts.letters.replaceChildren(el("li", { class: "none" }, "None."));
    return;
  }
  const items = keep(parts.letters, letters.map((letter) => letter.set_aside_at), () => el("li"));
  items.forEach((item, index) => {
    const { reason, detail, raw } = letters[index];
    if (!item.firstChild) {
      item.append(el("b", {}, reason.replaceAll("_", " ")), el("p", {}, detail),
        el("details", {}, el("summary", {}, "The element"), el("code", {}, raw)));
    }
  });
}
