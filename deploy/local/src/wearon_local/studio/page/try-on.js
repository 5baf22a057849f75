import { Refused, busy, el, get, post, reveal, seconds } from "./api.js";

const LABELS = {
  queued: "Waiting in the queue",
  held: "Waiting for a free slot",
  working: "Making the picture",
  storing: "Storing the picture",
  retrying: "Rate limit: waiting to try again",
  lost: "Its worker is gone: waiting for another",
  completed: "Done",
  failed: "Failed",
};
const EVERY_MS = 250;

const form = document.getElementById("try-on-form");
const stage = document.getElementById("stage");
const steps = document.getElementById("steps");
const outcome = document.getElementById("outcome");
const facts = document.getElementById("try-on-facts");
const spoken = document.getElementById("spoken");
const complaint = document.getElementById("try-on-complaint");
const cancel = document.getElementById("cancel");
const photoCheck = document.getElementById("photo-check");

export function setUpTryOn(showBalance) {
  const [person, garment] = form.querySelectorAll("studio-picker");
  person.addEventListener("chosen", () => checkPhoto(person));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const behaviour = new FormData(form).get("behaviour");
    busy(event.submitter ?? form.querySelector(".primary"), complaint, async () => {
      const before = person.url;
      outcome.replaceChildren();
      facts.replaceChildren();
      let view = await post("api/try-ons", { ...person.fields(), ...garment.fields(), behaviour });
      stage.replaceChildren(el("img", { class: "waiting", src: before, alt: "The person, before" }));
      reveal(stage);
      let last = null;
      cancel.onclick = () => busy(cancel, complaint, () => post(`api/try-ons/${view.id}/cancel`));
      for (;;) {
        showBalance(view.balance);
        showSteps(view);
        cancel.hidden = view.settled || view.attempts > 0;
        const now = view.steps.at(-1).name;
        if (now !== last) spoken.textContent = LABELS[now];
        last = now;
        if (view.settled) break;
        await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
        view = await get(`api/try-ons/${view.id}`);
      }
      showOutcome(view, before);
    });
  });
}

/** Says whether the person's photo will do, before a credit is taken for it. */
async function checkPhoto(person) {
  const shown = person.url;
  photoCheck.textContent = "";
  const { usable, sentence } = await post("api/check-photo", person.fields()).catch((error) => {
    if (error instanceof Refused) return { usable: false, sentence: error.message };
    throw error;
  });
  // Another picture may have been chosen meanwhile.
  if (person.url !== shown) return;
  photoCheck.textContent = sentence;
  photoCheck.classList.toggle("bad", !usable);
}

function showSteps(view) {
  const longest = Math.max(...view.steps.map((step) => step.seconds), 1);
  while (steps.children.length > view.steps.length) steps.lastChild.remove();
  view.steps.forEach((step, index) => {
    let item = steps.children[index];
    if (!item) {
      item = el("li", {}, el("span", { class: "name" }), el("span", { class: "time" }), el("span", { class: "length", "aria-hidden": "true" }));
      steps.append(item);
    }
    const ended = view.settled && index === view.steps.length - 1;
    item.dataset.step = step.name;
    item.classList.toggle("open", step.open);
    item.querySelector(".name").textContent = LABELS[step.name];
    item.querySelector(".time").textContent = ended ? `after ${seconds(view.seconds)}` : seconds(step.seconds);
    item.querySelector(".length").style.setProperty("--part", ended ? 0 : step.seconds / longest);
  });
}

function showOutcome(view, before) {
  const rows = [["Attempts", view.attempts], ["Session", view.id]];
  if (view.status === "completed") {
    rows.unshift(["Tokens", view.tokens.join(" in, ") + " out"], ["Would cost", `$${view.cost_usd.toFixed(3)}`]);
    outcome.replaceChildren(
      el("p", { class: "verdict good" }, "The picture is there."),
      el("p", {}, `One credit was spent; ${view.balance} left.`));
    showSlider(before, `api/try-ons/${view.id}/picture`);
  } else {
    rows.unshift(["Code", view.error.code ?? "none"]);
    outcome.replaceChildren(
      el("p", { class: "verdict bad" }, view.error.sentence),
      el("p", {}, view.given_back ? `The credit came back: ${view.balance} left.` : `The credit did not come back; ${view.balance} left.`));
    stage.querySelector("img").className = "failed";
  }
  spoken.textContent = [...outcome.children].map((line) => line.textContent).join(" ");
  facts.replaceChildren(...rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]));
}

function showSlider(before, after) {
  const slider = el("input", {
    type: "range", min: 0, max: 100, value: 50, step: 1, "aria-label": "Divide between before and after",
    oninput: () => {
      pair.style.setProperty("--at", `${slider.value}%`);
      slider.setAttribute("aria-valuetext", `${slider.value} percent before`);
    },
  });
  slider.setAttribute("aria-valuetext", "50 percent before");
  const pair = el("div", { class: "pair" },
    el("img", { class: "after", src: after, alt: "After: the person with the garment, drawn by the stand-in" }),
    el("img", { class: "before", src: before, alt: "Before: the person as photographed" }),
    el("span", { class: "tag left", "aria-hidden": "true" }, "before"),
    el("span", { class: "tag right", "aria-hidden": "true" }, "after"),
    el("span", { class: "divide", "aria-hidden": "true" }),
    slider);
  stage.replaceChildren(pair);
}
