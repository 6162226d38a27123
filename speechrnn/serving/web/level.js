// The level of the microphone, as a meter.

const CLIPPED = 0.999;
const HOLD_MS = 1500;
const QUIETEST_DB = -60;

const $ = (id) => document.getElementById(id);
let timer = 0;

/** The loudest sample of a block of 16-bit PCM, in [0, 1]. */
export function peakOf(block) {
  return block.reduce((loudest, sample) => Math.max(loudest, Math.abs(sample)), 0) / 32768;
}

/** Shows a peak in [0, 1] in decibels of full scale, and for a while whether it was clipped. */
export function showLevel(peak, isLive) {
  const db = Math.max(QUIETEST_DB, 20 * Math.log10(Math.max(peak, 1e-6)));
  $("level").setAttribute("aria-valuenow", String(Math.round(db)));
  $("level").firstElementChild.style.transform = `scaleX(${1 - db / QUIETEST_DB})`;
  $("level-text").textContent = isLive ? `${Math.round(db)} dB` : "level";
  if (peak < CLIPPED) return;
  $("clipping").hidden = false;
  clearTimeout(timer);
  timer = setTimeout(() => { $("clipping").hidden = true; }, HOLD_MS);
}
