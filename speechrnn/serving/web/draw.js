// Pictures of sound: waveforms, words, posteriors. All times in seconds.

import { peakOf } from "./level.js";

const SHOWN_S = 10;
const BINS_PER_S = 100;
const BEHIND_S = 0.06; // the right edge shows only what has arrived
const FONT = "13px system-ui, sans-serif";

/** A canvas of its size on the page, cleared, with its colours. */
function begin(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const density = window.devicePixelRatio;
  const [w, h] = [Math.round(width * density), Math.round(height * density)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const pen = canvas.getContext("2d");
  pen.setTransform(density, 0, 0, density, 0, 0);
  pen.clearRect(0, 0, width, height);
  const style = getComputedStyle(canvas);
  const colour = (name) => style.getPropertyValue(`--${name}`);
  return { pen, width, height, colour };
}

/** One stretch of a waveform; quiet sounds are shown larger than they are. */
function bar(pen, x, width, value, middle, reach) {
  const half = Math.max(0.5, value ** 0.7 * reach);
  pen.fillRect(x, middle - half, width, 2 * half);
}

/** The whole of a recording, `peaks` being equally long stretches of it. */
export function drawPeaks(canvas, peaks) {
  const { pen, width, height, colour } = begin(canvas);
  pen.fillStyle = colour("wave");
  const step = width / peaks.length;
  peaks.forEach((value, i) => bar(pen, i * step, Math.max(0.75, 0.7 * step), value, height / 2, height / 2));
}

/** The last ten seconds of a microphone: waveform and words above, a row of posteriors for each keyword below. */
export class Strip {
  constructor(wave, heat, keywords) {
    this.wave = wave;
    this.heat = heat;
    this.keywords = keywords;
    this.muted = new Set();
    this.reset(48000);
  }

  reset(rate) {
    this.rate = rate;
    this.pushed = 0;
    this.began = null;
    this.bins = [];
    this.decisions = [];
    this.words = [];
  }

  /** Takes a block of 16-bit samples and says how loud it was, in [0, 1]. */
  push(block) {
    const size = Math.round(this.rate / BINS_PER_S);
    let loudest = 0;
    for (let start = 0; start < block.length; start += size) {
      const peak = peakOf(block.subarray(start, start + size));
      this.bins.push({ time: (this.pushed + start) / this.rate, peak });
      loudest = Math.max(loudest, peak);
    }
    this.pushed += block.length;
    const began = performance.now() / 1000 - this.pushed / this.rate;
    this.began = this.began === null ? began : this.began + 0.05 * (began - this.began); // evens out how blocks arrive
    return loudest;
  }

  /** Seconds of audio so far. */
  get position() {
    return this.pushed / this.rate;
  }

  decide(time, step, posteriors) {
    this.decisions.push({ time, step, posteriors });
  }

  word(found) {
    this.words.push(found);
  }

  draw() {
    const now = this.began === null ? 0 : Math.min(this.position, performance.now() / 1000 - this.began - BEHIND_S);
    const first = now - SHOWN_S;
    const forget = (list, end) => list.splice(0, Math.max(0, list.findIndex((item) => end(item) >= first)));
    forget(this.bins, ({ time }) => time + 0.1);
    forget(this.decisions, ({ time }) => time);
    forget(this.words, ({ end }) => end + 1);
    this.drawWave(first);
    this.drawHeat(first);
  }

  drawWave(first) {
    const { pen, width, height, colour } = begin(this.wave);
    const x = (time) => ((time - first) / SHOWN_S) * width;
    const middle = (height + 22) / 2;
    const reach = (height - 22) / 2;
    pen.fillStyle = colour("line");
    pen.fillRect(0, middle - 0.5, width, 1);
    for (let second = Math.ceil(first); second <= first + SHOWN_S; second++) pen.fillRect(x(second), 22, 1, height);
    pen.font = `600 ${FONT}`;
    pen.textAlign = "center";
    let [right, low] = [-Infinity, false];
    for (const { label, start, end } of this.words) {
      const [from, to] = [x(start), x(end)];
      pen.fillStyle = colour("band");
      pen.fillRect(from, 22, to - from, height - 22);
      const half = pen.measureText(label).width / 2;
      const centre = Math.min(width - half, Math.max(half, (from + to) / 2));
      low = centre - half < right + 4 && !low;
      right = Math.max(right, centre + half);
      pen.fillStyle = colour("ink");
      pen.fillText(label, centre, low ? 36 : 15);
    }
    pen.fillStyle = colour("wave");
    const step = width / SHOWN_S / BINS_PER_S;
    for (const { time, peak } of this.bins) bar(pen, x(time), Math.max(0.75, 0.8 * step), peak, middle, reach);
  }

  drawHeat(first) {
    const { pen, width, height, colour } = begin(this.heat);
    const x = (time) => ((time - first) / SHOWN_S) * width;
    const row = height / this.keywords.length;
    this.keywords.forEach((keyword, i) => {
      pen.fillStyle = colour("track");
      pen.fillRect(0, i * row + 2, width, row - 4);
      pen.fillStyle = colour(this.muted.has(keyword) ? "muted" : "heat");
      for (const { time, step, posteriors } of this.decisions) {
        if (posteriors[i] < 0.02) continue;
        pen.globalAlpha = posteriors[i];
        const [from, to] = [Math.round(x(time - step)), Math.round(x(time))];
        pen.fillRect(from, i * row + 2, to - from, row - 4);
      }
      pen.globalAlpha = 1;
    });
    pen.strokeStyle = colour("ink");
    pen.lineWidth = 1.5;
    for (const { label, decided } of this.words) {
      const i = this.keywords.indexOf(label);
      pen.beginPath();
      pen.moveTo(x(decided), i * row + 2);
      pen.lineTo(x(decided), (i + 1) * row - 2);
      pen.stroke();
    }
  }
}
