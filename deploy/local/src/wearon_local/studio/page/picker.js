// <studio-picker name label kinds>: a picture from the samples, from a file, or dropped.

import { el } from "./api.js";

class StudioPicker extends HTMLElement {
  #file = null;
  #sample = null;

  connectedCallback() {
    const name = this.getAttribute("name");
    this.preview = el("img", { alt: "", hidden: true });
    this.hint = el("span", { class: "hint" }, "Drop a picture here or choose a file");
    this.input = el("input", {
      type: "file", accept: "image/jpeg,image/png,image/webp", id: `${name}-file`, class: "unseen",
      onchange: () => this.#take(this.input.files[0]),
    });
    this.drop = el("label", { for: `${name}-file`, class: "drop" }, this.preview, this.hint);
    for (const kind of ["dragenter", "dragover"]) {
      this.drop.addEventListener(kind, (event) => {
        event.preventDefault();
        this.drop.classList.add("over");
      });
    }
    this.drop.addEventListener("dragleave", () => this.drop.classList.remove("over"));
    this.drop.addEventListener("drop", (event) => {
      event.preventDefault();
      this.drop.classList.remove("over");
      this.#take(event.dataTransfer.files[0]);
    });
    this.samples = el("div", { class: "samples" });
    this.append(el("fieldset", { class: "picker" }, el("legend", {}, this.getAttribute("label")),
      this.input, this.drop, this.samples));
  }

  /** Show the samples of this picker's kinds and choose the first. */
  offer(samples) {
    const kinds = this.getAttribute("kinds").split(" ");
    const name = this.getAttribute("name");
    const buttons = samples.filter((sample) => kinds.includes(sample.kind)).map((sample) => el("label", {},
      el("input", { type: "radio", name: `${name}-sample`, value: sample.name, class: "unseen",
        onchange: () => this.#choose(sample) }),
      el("img", { src: `api/samples/${sample.name}`, alt: "" }),
      el("span", {}, sample.label)));
    this.samples.replaceChildren(...buttons);
    const first = this.samples.querySelector("input");
    first.checked = true;
    first.dispatchEvent(new Event("change"));
  }

  /** The form fields that stand for the picture. */
  fields() {
    const name = this.getAttribute("name");
    return this.#file ? { [name]: this.#file } : { [`${name}_sample`]: this.#sample?.name };
  }

  get url() {
    return this.preview.src;
  }

  #choose(sample) {
    this.#file = null;
    this.#sample = sample;
    this.#show(`api/samples/${sample.name}`, `Sample: ${sample.label}`);
    this.dispatchEvent(new CustomEvent("chosen", { detail: sample }));
  }

  #take(file) {
    if (!file) return;
    this.#file = file;
    for (const radio of this.samples.querySelectorAll("input")) radio.checked = false;
    this.#show(URL.createObjectURL(file), file.name);
    this.dispatchEvent(new CustomEvent("chosen", { detail: null }));
  }

  #show(url, text) {
    this.preview.src = url;
    this.preview.hidden = false;
    this.hint.textContent = text;
    this.drop.classList.add("filled");
  }
}

customElements.define("studio-picker", StudioPicker);
