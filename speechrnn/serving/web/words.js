// Own words: one take after the other from the microphone, each judged by the server, and all of them as one archive.

import { drawPeaks } from "./draw.js";
import { peakOf, showLevel } from "./level.js";
import { listMicrophones, Microphone } from "./microphone.js";
import { soundOf, Takes, wavOf, zipOf } from "./takes.js";

const COUNT_DOWN_S = 1.5; // as `speechrnn record`
const TAKE_S = 2.5;
const ROOM_S = 30;
const MAX_REFUSED = 5;
const N_PEAKS = 48;
const ROOM = "_background_noise_";
const RESERVED = ["unknown", "silence"];

const $ = (id) => document.getElementById(id);

let takes = null;
let keywords = [];
let live = null; // the microphone, and who waits for its sound, while the page records
let busy = false;

class Refused extends Error {}
class Stopped extends Error {}

function say(text, kind = "") {
  $("message").textContent = text;
  $("message").dataset.kind = kind;
}

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// Recording

/** Opens the microphone, does what needs it, and says what went wrong. */
async function recording(work) {
  if (busy) return;
  busy = true;
  $("player").pause();
  say("");
  showButtons();
  try {
    const microphone = await Microphone.open($("microphone").value, { onBlock: push, onEnd: lose });
    live = { microphone, waiting: null };
    showButtons();
    await listMicrophones($("microphone"), microphone.deviceId);
    await work();
  } catch (error) {
    say(...(error instanceof Stopped ? [""] : [error.message, "problem"]));
  }
  stop();
  busy = false;
  prompt("");
  showButtons();
}

function stop() {
  const ended = live;
  live = null;
  ended?.microphone.close();
  ended?.waiting?.fail(new Stopped());
  showLevel(0, false);
}

function lose() {
  if (!live) return;
  live.lost = new Error("The microphone is gone. Plug it in again, or choose another one, and press the button.");
  live.waiting?.fail(live.lost);
}

function push(block) {
  if (!live) return;
  showLevel(peakOf(block), true);
  live.waiting?.take(block);
}

/** The next seconds of the microphone, 16-bit PCM; meanwhile it is shown how much of them is left. */
function listen(seconds) {
  if (!live || live.lost) throw live?.lost ?? new Stopped();
  const wanted = Math.round(seconds * live.microphone.rate);
  const samples = new Int16Array(wanted);
  let n = 0;
  return new Promise((resolve, fail) => {
    const take = (block) => {
      samples.set(block.subarray(0, wanted - n), n);
      n = Math.min(wanted, n + block.length);
      $("time").firstElementChild.style.transform = `scaleX(${1 - n / wanted})`;
      if (n === wanted) resolve(samples);
    };
    live.waiting = { take, fail };
  });
}

function prompt(text, isNow = false) {
  $("prompt").textContent = text;
  $("prompt").classList.toggle("now", isNow);
  $("time").firstElementChild.style.transform = "scaleX(0)";
}

/** Records a word until a take is good; gives its file. */
async function good(word, which) {
  for (let nRefused = 0; ; ) {
    prompt("ready");
    if (nRefused === 0) say(`Say “${word}” after the count-down (${which}).`);
    await listen(COUNT_DOWN_S);
    prompt(word, true);
    const samples = await listen(TAKE_S);
    prompt("…");
    try {
      return await judged(samples, live.microphone.rate);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      say(`Not kept, ${error.message}. Once more.`, "problem");
      if (++nRefused === MAX_REFUSED) throw new Error(`${nRefused} takes were no good; the last was not kept, ${error.message}.`);
    }
  }
}

/** The word of a take as a file. Throws Refused with the reason if it will not do. */
async function judged(samples, rate) {
  let response;
  try {
    response = await fetch(`v1/take?rate_hz=${rate}`, { method: "POST", body: samples });
  } catch {
    throw new Error("The server cannot be reached. Is it still running? The takes so far are kept.");
  }
  if (response.ok) return response.arrayBuffer();
  const { message } = await response.json();
  throw response.status === 422 ? new Refused(message) : new Error(message);
}

async function recordWord(word, speaker, count) {
  for (let n = takes.of(word).length; n < count; n = takes.of(word).length) {
    takes.add(word, takes.free(word, speaker), await good(word, `${n + 1} of ${count}`));
    show();
  }
  say(`“${word}” is done: ${count} recordings.`);
}

async function recordRoom() {
  prompt("do not speak");
  say(`${ROOM_S} s of the room as it usually sounds.`);
  const samples = await listen(ROOM_S);
  takes.add(ROOM, takes.free(ROOM, "room"), wavOf(samples, live.microphone.rate));
  show();
  say("The room is done.");
}

// What has been recorded

function show() {
  $("takes").replaceChildren(...takes.words.map(groupOf));
  for (const canvas of $("takes").querySelectorAll("canvas")) draw(canvas);
  const n = takes.all.length;
  $("no-takes").hidden = n > 0;
  for (const id of ["download", "clear", "next"]) $(id).hidden = n === 0;
  URL.revokeObjectURL($("download").href);
  if (n) $("download").href = URL.createObjectURL(zipOf(takes.all.map(({ word, name, wav }) => [`my-words/${word}/${name}`, wav])));
  $("kept").textContent = takes.areKept ? "" : "This browser keeps nothing: download before you leave this page.";
  showButtons();
}

function titleOf(word) {
  return word === ROOM ? "the room" : word;
}

function groupOf(word) {
  const some = takes.of(word);
  const title = element("h3", {}, titleOf(word), element("span", { className: "soft" }, ` ${some.length}`));
  return element("div", { className: "word" }, title, element("ol", {}, ...some.map(rowOf)));
}

function rowOf(take, i) {
  const { samples, seconds } = soundOf(take);
  const title = `${titleOf(take.word)} ${i + 1}`;
  const button = (text, label, onclick) => {
    const made = element("button", { type: "button", onclick }, text);
    made.setAttribute("aria-label", `${label} ${title}`);
    return made;
  };
  const canvas = element("canvas", { peaks: peaksOf(samples) });
  canvas.setAttribute("aria-hidden", "true");
  const again = take.word === ROOM ? [] : [button("Again", "Record again", () => repeat(take))];
  return element(
    "li",
    { title: take.name },
    button("▶", "Play", () => play(take)),
    canvas,
    element("span", { className: "soft" }, `${seconds.toFixed(1)} s, ${take.name.split("_nohash_")[0]}`),
    ...again,
    button("Delete", "Delete", () => remove(take)),
  );
}

function peaksOf(samples) {
  const size = Math.max(1, Math.floor(samples.length / N_PEAKS));
  return Array.from({ length: N_PEAKS }, (_, i) => peakOf(samples.subarray(i * size, (i + 1) * size)));
}

function draw(canvas) {
  const loudest = Math.max(...canvas.peaks, 0.01);
  drawPeaks(canvas, canvas.peaks.map((value) => value / loudest));
}

function play({ wav }) {
  URL.revokeObjectURL($("player").src);
  $("player").src = URL.createObjectURL(new Blob([wav], { type: "audio/wav" }));
  $("player").play().catch((error) => say(`The browser does not play it (${error.message}).`, "problem"));
}

function repeat(take) {
  return recording(async () => {
    takes.put({ ...take, wav: await good(take.word, "once more") });
    show();
    say(`“${take.word}” was recorded again.`);
  });
}

function remove(take) {
  takes.delete(take);
  show();
  say(`A recording of ${titleOf(take.word)} is deleted.`);
  $("record").focus();
}

// The page

/** Why a name cannot be that of a folder or a file, or would be read as something else; empty for a good one. */
function problemOf(name) {
  if (/[/\\]|^[._]|_nohash_/.test(name)) return `“${name}” cannot be the name of a folder: leave out / and \\, and begin with a letter.`;
  if (RESERVED.includes(name)) return `“${name}” is a reserved name; choose another word.`;
  return "";
}

function begin() {
  const [word, speaker] = ["name", "speaker"].map((id) => $(id).value.trim().normalize("NFC"));
  const problem = [word, speaker].map((name) => (name ? problemOf(name) : "Type a word and who speaks.")).find(Boolean);
  if (problem) return say(problem, "problem");
  if (keywords.includes(word)) return say(`The model knows “${word}” already; choose another word.`, "problem");
  const count = Number($("count").value);
  if (takes.of(word).length >= count) return say(`There are ${takes.of(word).length} recordings of “${word}”; ask for more, or type another word.`);
  recording(() => recordWord(word, speaker, count));
}

function showButtons() {
  $("record").disabled = busy && !live;
  $("record").setAttribute("aria-pressed", String(live !== null));
  $("record-text").textContent = live ? "Stop recording" : "Start recording";
  for (const id of ["takes", "room", "clear", "name", "count", "speaker", "microphone"]) $(id).disabled = busy;
  if (live) return;
  if (!$("prompt").textContent) prompt($("name").value.trim() || "your word");
}

function wire() {
  $("form").onsubmit = (event) => {
    event.preventDefault();
    if (live) stop();
    else begin();
  };
  $("name").oninput = () => prompt($("name").value.trim() || "your word");
  $("room").onclick = () => recording(recordRoom);
  $("clear").onclick = () => {
    if (!confirm("Delete all recordings from this browser?")) return;
    takes.clear();
    show();
    $("record").focus();
  };
  navigator.mediaDevices?.addEventListener("devicechange", () => listMicrophones($("microphone")));
  const redraw = () => $("takes").querySelectorAll("canvas").forEach(draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("resize", redraw);
}

async function open() {
  try {
    keywords = (await (await fetch("v1/model")).json()).keywords;
  } catch {
    return say("The server cannot be reached. Start it, and load this page again.", "problem");
  }
  takes = await Takes.open();
  wire();
  await listMicrophones($("microphone"));
  show();
}

open();
