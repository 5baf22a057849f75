import { busy, el, post, reveal, svg } from "./api.js";

const NAMES = { chest_cm: "Chest", waist_cm: "Waist", hip_cm: "Hip", shoulder_cm: "Shoulder", inseam_cm: "Inseam" };
const NOTES = { chest_cm: "girth", waist_cm: "girth", hip_cm: "girth", shoulder_cm: "breadth", inseam_cm: "crotch to floor" };

// A bar shows the value, so much less and so much more.
const SHOWN_PART = 0.15;

const form = document.getElementById("sizing-form");
const figure = document.getElementById("drawing");
const story = document.getElementById("sizes");
const complaint = document.getElementById("sizing-complaint");

export function setUpSizing() {
  const photo = form.querySelector("studio-picker");
  photo.addEventListener("chosen", ({ detail: sample }) => {
    form.elements.height_cm.value = sample?.height_cm ?? "";
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const fields = Object.fromEntries(new FormData(form));
    busy(event.submitter ?? form.querySelector(".primary"), complaint, async () => {
      const url = photo.url;
      const result = await post("api/sizing", {
        ...photo.fields(),
        height_cm: fields.height_cm,
        weight_kg: fields.weight_kg,
        gender: fields.gender,
        fit_preference: fields.fit_preference,
        size_chart: chartOf(fields),
        side: fields.side?.size ? fields.side : null,
      });
      showDrawing(url, result);
      reveal(figure);
      story.replaceChildren(...(result.outcome === "sized"
        ? [...sized(result.answer), answeredIn(result)]
        : refused(result)));
    });
  });
}

/** The size chart as JSON: the lines that were written, else the standard that was chosen, else none. */
function chartOf({ size_rows: lines, size_standard: standard }) {
  if (lines.trim()) return JSON.stringify({ rows: lines.trim().split("\n").map(rowOf) });
  return standard ? JSON.stringify({ standard }) : "";
}

const MEASURE = /\s(chest|waist|hip|shoulder|inseam)\s+([\d.]+)(?:\s*[-–—]\s*([\d.]+))?/gi;

/** `US 10 chest 96-104 waist 81-89` as a row of a chart. What is no measurement stays in the label. */
function rowOf(line) {
  const row = { label: line.replace(MEASURE, "").trim() };
  for (const [, name, lower, upper = lower] of line.matchAll(MEASURE)) {
    row[`${name.toLowerCase()}_cm`] = { lower: Number(lower), upper: Number(upper) };
  }
  return row;
}

function sized(answer) {
  const { recommended_size: size, confidence, size_range: range, measurements, intervals } = answer;
  const span = range.lower === range.upper ? range.lower : `${range.lower} to ${range.upper}`;
  const rows = Object.entries(measurements).map(([key, value]) => {
    const { lower, upper } = intervals[key];
    const bar = el("span", { class: "interval", "aria-hidden": "true" });
    const place = (length) => Math.min(1, Math.max(0, 0.5 + (length / value - 1) / (2 * SHOWN_PART)));
    bar.style.setProperty("--from", place(lower));
    bar.style.setProperty("--to", place(upper));
    bar.style.setProperty("--at", place(value));
    return el("tr", { class: key },
      el("th", { scope: "row" }, NAMES[key], el("small", {}, NOTES[key])),
      el("td", { class: "value" }, value.toFixed(1), el("small", {}, "cm")),
      el("td", { class: "range" }, `${lower.toFixed(1)} to ${upper.toFixed(1)}`, bar));
  });
  return [
    el("p", { class: "size" }, el("span", { class: "unseen" }, "Size "), el("strong", {}, size),
      el("span", {}, el("b", {}, `${Math.round(confidence * 100)}% sure`), `most likely ${span}`)),
    el("table", { class: "measures" },
      el("caption", {}, "Measurements, and the range that holds the true value four times out of five"),
      el("thead", { class: "unseen" }, el("tr", {}, ...["Measure", "Value", "Range"].map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, ...rows)),
    ...charted(answer.chart_size),
    el("ul", { class: "notes" },
      el("li", {}, `Build: ${answer.body_type}.`),
      answer.photo_trust > 0 ? el("li", {}, `Trust in the photo: ${Math.round(answer.photo_trust * 100)}%.`) : null,
      ...answer.warnings.map((warning) => el("li", {}, warning))),
  ];
}

function answeredIn({ answer, milliseconds }) {
  return el("p", { class: "notes" }, `Answered in ${milliseconds} ms by method ${answer.method_version}.`);
}

/** The sizes of the garment's own chart: what is advised, and how likely each is. */
function charted(chart) {
  if (!chart) return [];
  const rows = chart.labels.map(({ label, probability }) => {
    const bar = el("span", { class: "share", "aria-hidden": "true" });
    bar.style.setProperty("--share", probability);
    return el("tr", { class: label === chart.recommended ? "chosen" : null },
      el("th", { scope: "row" }, label), el("td", {}, `${Math.round(probability * 100)}%`, bar));
  });
  return [
    el("p", { class: "advice chart" }, el("b", {}, `${chart.recommended} of this chart. `), chart.explanation),
    el("table", { class: "chart-sizes" }, el("caption", { class: "unseen" }, "Sizes of the chart, and how likely each is"),
      el("tbody", {}, ...rows)),
  ];
}

function refused({ sentence, code, fallback, status }) {
  // The chart, the request or the service may be to blame as well; only then is there no fallback, or a 5xx.
  const photo = fallback && status < 500;
  return [
    el("p", { class: "verdict bad" }, photo ? "This photo cannot be measured." : "No size was found."),
    el("p", { class: "advice" }, sentence),
    ...(code ? [el("dl", { class: "facts" }, el("dt", {}, "Code"), el("dd", {}, code))] : []),
    ...(fallback ? [el("h3", {}, "Without the photo"), ...sized(fallback)] : []),
  ];
}

function showDrawing(url, { drawing, outcome }) {
  const photo = el("img", { src: url, alt: "The photo" });
  if (!drawing) {
    figure.replaceChildren(photo);
    return;
  }
  const { width, height } = drawing;
  const path = (points) => points.map((point) => point.join(",")).join(" ");
  const unit = Math.max(width, height) / 512;
  const layer = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": outcome === "sized" ? "Outline, skeleton and the measured lines" : "The skeleton that was found" });
  layer.style.setProperty("--unit", unit);
  for (const outline of drawing.outline) layer.append(svg("polygon", { class: "outline", points: path(outline) }));
  for (const bone of drawing.bones) layer.append(svg("polyline", { class: "bone", points: path(bone) }));
  for (const [x, y] of drawing.joints) layer.append(svg("circle", { class: "joint", cx: x, cy: y, r: 3 * unit }));
  for (const { name, ends, width_cm: wide } of drawing.lines) {
    const [[x1, y1], [x2, y2]] = ends;
    const text = svg("text", { x: (x1 + x2) / 2, y: (y1 + y2) / 2 + 13 * unit });
    text.textContent = `${name} ${wide.toFixed(0)} cm`;
    layer.append(svg("g", { class: `line ${name}_cm` }, svg("line", { x1, y1, x2, y2 }), text));
  }
  const caption = outcome === "sized" ? "On the photo: widths as it shows them. In the table: girths, and for the shoulders the breadth."
    : "What was found in the photo before it was refused.";
  figure.replaceChildren(el("div", { class: "drawn" }, photo, layer), el("figcaption", {}, caption));
}
