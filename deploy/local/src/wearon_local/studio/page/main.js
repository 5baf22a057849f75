import { get, post } from "./api.js";
import "./picker.js";
import { showQueue } from "./queue.js";
import { setUpSizing } from "./sizing.js";
import { setUpTryOn } from "./try-on.js";

const balance = document.getElementById("balance");
const movement = document.getElementById("movement");

const SHOWN_MS = 2400;
let forgetting;

/** Shows the balance, and for a moment what it changed by. */
function showBalance(value) {
  const before = Number(balance.textContent);
  balance.textContent = value;
  if (Number.isNaN(before) || before === value) return;
  movement.textContent = value > before ? `+${value - before}` : `−${before - value}`;
  movement.className = "movement";
  void movement.offsetWidth; // lets the animation begin anew
  movement.classList.add(value > before ? "up" : "down");
  clearTimeout(forgetting);
  forgetting = setTimeout(() => (movement.textContent = ""), SHOWN_MS);
}

function setUpTabs() {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const choose = (tab, focus) => {
    for (const other of tabs) {
      const chosen = other === tab;
      other.setAttribute("aria-selected", chosen);
      other.tabIndex = chosen ? 0 : -1;
      document.getElementById(other.getAttribute("aria-controls")).hidden = !chosen;
    }
    if (focus) tab.focus();
    showQueue(tab.id === "tab-queue");
    history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`);
  };
  for (const [index, tab] of tabs.entries()) {
    tab.addEventListener("click", () => choose(tab, false));
    tab.addEventListener("keydown", (event) => {
      const to = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: -1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      choose(tabs.at(to % tabs.length), true);
    });
  }
  const wanted = tabs.find((tab) => `#${tab.getAttribute("aria-controls")}` === location.hash);
  if (wanted) choose(wanted, false);
}

setUpTabs();
setUpTryOn(showBalance);
setUpSizing();
document.getElementById("add-credits").addEventListener("click", async () => {
  showBalance((await post("api/account/credits")).balance);
});

const samples = await get("api/samples");
for (const picker of document.querySelectorAll("studio-picker")) picker.offer(samples);
showBalance((await get("api/account")).balance);
