// What the page does: the microphone to the server, its answers to the strip, and a recording that is dropped.

import { Connection } from "./connection.js";
import { Strip } from "./draw.js";
import { showLevel } from "./level.js";
import { listMicrophones, Microphone } from "./microphone.js";
import * as recording from "./recording.js";

const N_SHOWN = 12;

const $ = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");

let model = null;
let strip = null;
let live = null; // the microphone and the connection, while the page listens
let starting = false;
let thresholdMoved = false;

function say(text, kind = "") {
  $("message").textContent = text;
  $("message").dataset.kind = kind;
}

/** What the page asks of the server, for the microphone and for recordings alike. */
function choice() {
  const chosen = [...$("keywords").querySelectorAll("input:checked")].map(({ value }) => value);
  return {
    ...(chosen.length < model.keywords.length && { keywords: chosen }),
    ...(thresholdMoved && { threshold: Number($("threshold").value) }),
  };
}

async function listen() {
  if (starting) return;
  starting = true;
  say("");
  try {
    const microphone = await Microphone.open($("microphone").value, { onBlock: push, onEnd: lose });
    strip.reset(microphone.rate);
    const connection = new Connection({ ...choice(), rate_hz: microphone.rate }, { onMessage: answer, onState: show });
    live = { microphone, connection };
    requestAnimationFrame(draw);
    await listMicrophones($("microphone"), microphone.deviceId);
  } catch (error) {
    say(error.message, "problem");
  }
  starting = false;
  showButton();
}

function stop() {
  live?.microphone.close();
  live?.connection.close();
  live = null;
  showLevel(0, false);
  showButton();
}

function lose() {
  stop();
  say("The microphone is gone. Plug it in again, or choose another one, and press the button.", "problem");
}

function showButton() {
  $("listen").setAttribute("aria-pressed", String(live !== null));
  $("listen-text").textContent = live ? "Stop listening" : "Start listening";
  if (live && !$("word").textContent) $("detail").textContent = `Say ${model.keywords.slice(0, 3).join(", ")} …`;
}

function push(block) {
  if (!live) return;
  showLevel(strip.push(block), true);
  live.connection.push(block);
}

/** A message of the server, whose clock began when `began` samples had been pushed. */
function answer(message, began) {
  const offset = began / strip.rate;
  if (message.type === "decision") {
    strip.decide(offset + message.time_s, model.step_ms / 1000, message.posteriors);
    $("lag").textContent = `${Math.round(message.lag_ms)} ms`;
  }
  for (const found of message.detections ?? []) {
    showWord(found, offset);
    if (message.type === "decision") $("delay").textContent = `${Math.round(1000 * (strip.position - offset - found.end_s))} ms`;
  }
}

function showWord({ label, start_s, end_s, score, decided_s }, offset) {
  strip.word({ label, start: offset + start_s, end: offset + end_s, decided: offset + decided_s });
  const word = $("word");
  word.textContent = label;
  word.classList.remove("fresh");
  void word.offsetWidth; // so that the animation starts again
  word.classList.add("fresh");
  $("detail").textContent = `score ${score.toFixed(2)}`;
  $("no-detections").hidden = true;
  const item = document.createElement("li");
  const name = document.createElement("b");
  name.textContent = label;
  item.append(name, ` ${score.toFixed(2)}`);
  $("detections").prepend(item);
  while ($("detections").children.length > N_SHOWN) $("detections").lastElementChild.remove();
}

function show(state, reason) {
  if (state === "open") return say("");
  if (state === "refused") {
    stop();
    return say(reason, "problem");
  }
  say(reason ? `${reason[0].toUpperCase()}${reason.slice(1)}. Trying again …` : "The server cannot be reached. Trying again …", "problem");
}

function draw() {
  strip.draw();
  if (!live) return;
  if (calm.matches) setTimeout(draw, 250);
  else requestAnimationFrame(draw);
}

function makeKeywords() {
  for (const keyword of model.keywords) {
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), { type: "checkbox", value: keyword, checked: true });
    label.append(input, keyword);
    $("keywords").append(label);
  }
}

function chooseAgain() {
  const inputs = [...$("keywords").querySelectorAll("input")];
  const chosen = inputs.filter(({ checked }) => checked);
  strip.muted = new Set(inputs.filter(({ checked }) => !checked).map(({ value }) => value));
  for (const input of inputs) input.disabled = chosen.length === 1 && input.checked; // one has to be left
  if (live) live.connection.restart({ ...choice(), rate_hz: live.microphone.rate });
  else strip.draw();
}

function transcribe(file) {
  const { keywords, ...rest } = choice();
  recording.transcribe(file, { ...rest, ...(keywords && { keywords: keywords.join(",") }) }, model.max_upload_bytes);
}

function wire() {
  $("listen").onclick = () => (live ? stop() : listen());
  $("microphone").onchange = () => {
    if (!live) return;
    stop();
    listen();
  };
  $("keywords").onchange = chooseAgain;
  $("threshold").oninput = () => { $("threshold-text").textContent = Number($("threshold").value).toFixed(2); };
  $("threshold").onchange = () => {
    thresholdMoved = true;
    chooseAgain();
  };
  $("file").onchange = ({ target }) => {
    if (target.files[0]) transcribe(target.files[0]);
    target.value = "";
  };
  document.ondragover = (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  };
  document.ondragleave = ({ relatedTarget }) => {
    if (!relatedTarget) document.body.classList.remove("dragging");
  };
  document.ondrop = (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    if (event.dataTransfer.files[0]) transcribe(event.dataTransfer.files[0]);
  };
  navigator.mediaDevices?.addEventListener("devicechange", () => listMicrophones($("microphone")));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    strip.draw();
    recording.redraw();
  });
  addEventListener("resize", () => strip.draw());
}

async function begin() {
  try {
    model = await (await fetch("v1/model")).json();
  } catch {
    return say("The server cannot be reached. Start it, and load this page again.", "problem");
  }
  $("model").textContent = `${model.model} detects ${model.keywords.join(", ")}`;
  $("threshold").value = model.threshold;
  $("threshold-text").textContent = model.threshold.toFixed(2);
  makeKeywords();
  strip = new Strip($("wave"), $("heat"), model.keywords);
  recording.begin();
  wire();
  strip.draw();
  await listMicrophones($("microphone"));
  $("listen").disabled = false;
}

begin();
