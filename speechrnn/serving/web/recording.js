// A sound file: sent to the server, shown with its words, played, and kept as text.

import { drawPeaks } from "./draw.js";

const PIXELS_PER_S = 40;
const MAX_PIXELS = 16000;
const FILES = { json: ["application/json", ".json"], vtt: ["text/vtt", ".vtt"], audacity: ["text/plain", ".labels.txt"] };

const $ = (id) => document.getElementById(id);
const clock = (s) => `${Math.floor(s / 60)}:${(s % 60).toFixed(1).padStart(4, "0")}`;

let shown = null;
let stopAt = Infinity;

function say(text, kind = "") {
  $("file-message").textContent = text;
  $("file-message").dataset.kind = kind;
}

/** Sends a file and shows what was found in it; `query` holds the choices of the page. */
export async function transcribe(file, query, mostBytes) {
  $("recording").hidden = true;
  $("player").pause();
  if (file.size > mostBytes) return say(`${file.name} is larger than ${mostBytes / 1e6} MB; drop a part of it.`, "problem");
  say(`Listening to ${file.name} …`, "busy");
  let answer;
  try {
    const response = await fetch(`v1/transcribe?${new URLSearchParams({ ...query, name: file.name })}`, { method: "POST", body: file });
    answer = await response.json();
  } catch {
    return say("The server cannot be reached. Is it still running?", "problem");
  }
  if (answer.type === "error") return say(answer.message, "problem");
  say("");
  show(answer, file);
}

function show(found, file) {
  shown = found;
  const n = found.detections.length;
  $("file-title").textContent = `${found.name}, ${clock(found.duration_s)}, ${n === 0 ? "no word" : n === 1 ? "one word" : `${n} words`}`;
  $("recording").hidden = false;
  $("picture").style.minWidth = `${Math.min(MAX_PIXELS, found.duration_s * PIXELS_PER_S)}px`;
  $("picture").querySelectorAll("button").forEach((button) => button.remove());
  $("picture").append(...found.detections.map(wordButton));
  drawPeaks($("peaks"), found.peaks);
  URL.revokeObjectURL($("player").src);
  $("player").src = URL.createObjectURL(file);
  for (const [kind, [type, suffix]] of Object.entries(FILES)) {
    const link = $(`as-${kind}`);
    URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(new Blob([found.files[kind]], { type }));
    link.download = found.name.replace(/\.[^.]*$/, "") + suffix;
  }
}

function wordButton({ label, start_s, end_s, score }) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = label;
  button.title = `${start_s.toFixed(2)} to ${end_s.toFixed(2)} s, score ${score.toFixed(2)}`;
  button.setAttribute("aria-label", `Play ${label}, ${button.title}`);
  button.style.left = `${(100 * start_s) / shown.duration_s}%`;
  button.style.width = `${(100 * (end_s - start_s)) / shown.duration_s}%`;
  button.onclick = (event) => {
    event.stopPropagation();
    play(start_s - 0.1, end_s + 0.1);
  };
  return button;
}

function play(from, to = Infinity) {
  $("player").currentTime = Math.max(0, from);
  stopAt = to;
  $("player").play().catch(() => {}); // its error event says why
}

function follow() {
  const player = $("player");
  if (player.currentTime >= stopAt) {
    player.pause();
    stopAt = Infinity;
  }
  $("cursor").style.left = `${(100 * player.currentTime) / shown.duration_s}%`;
  if (!player.paused) requestAnimationFrame(follow);
}

/** Makes the elements of the page work. */
export function begin() {
  $("player").onplay = follow;
  $("player").onseeked = follow;
  $("player").onerror = () => {
    if (shown) say("This browser cannot play this kind of file; the words are right all the same.");
  };
  $("picture").onclick = ({ clientX }) => {
    const { left, width } = $("picture").getBoundingClientRect();
    play(((clientX - left) / width) * shown.duration_s);
  };
  new ResizeObserver(redraw).observe($("picture"));
}

/** Draws the recording again, in the page's present colours. */
export function redraw() {
  if (shown) drawPeaks($("peaks"), shown.peaks);
}
