// The takes of own words: kept in this browser until they are deleted, and handed out as files.

const HEAD_BYTES = 44;

/** Opens the place in which this browser keeps takes; null where it keeps nothing, as in a private window. */
function openPlace() {
  return new Promise((resolve) => {
    const request = indexedDB.open("speechrnn", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("takes", { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => resolve(null);
  });
}

/** All takes, each { id, word, name, wav }: the name of its file, and the content as an ArrayBuffer. */
export class Takes {
  static async open() {
    const takes = new Takes();
    takes.all = [];
    takes.place = await openPlace().catch(() => null);
    if (takes.place) {
      const request = takes.place.transaction("takes").objectStore("takes").getAll();
      await new Promise((done) => { request.onsuccess = request.onerror = done; });
      takes.all = request.result ?? [];
    }
    return takes;
  }

  /** Whether takes outlive the page. */
  get areKept() {
    return this.place !== null;
  }

  of(word) {
    return this.all.filter((take) => take.word === word);
  }

  get words() {
    return [...new Set(this.all.map(({ word }) => word))];
  }

  /** Adds a take, or puts it in the place of the one that has its id. */
  put(take) {
    const at = this.all.findIndex(({ id }) => id === take.id);
    if (at < 0) this.all.push(take);
    else this.all[at] = take;
    this.change((store) => store.put(take));
  }

  add(word, name, wav) {
    this.put({ id: 1 + Math.max(0, ...this.all.map(({ id }) => id)), word, name, wav });
  }

  delete(take) {
    this.all = this.all.filter(({ id }) => id !== take.id);
    this.change((store) => store.delete(take.id));
  }

  clear() {
    this.all = [];
    this.change((store) => store.clear());
  }

  change(how) {
    if (!this.place) return;
    const transaction = this.place.transaction("takes", "readwrite");
    transaction.onerror = transaction.onabort = () => { this.place = null; }; // no room is left
    how(transaction.objectStore("takes"));
  }

  /** The first name of a recording by a speaker that is not taken. */
  free(word, speaker) {
    const names = new Set(this.of(word).map(({ name }) => name));
    for (let n = 0; ; n++) if (!names.has(`${speaker}_nohash_${n}.wav`)) return `${speaker}_nohash_${n}.wav`;
  }
}

/** The samples of a take as 16-bit PCM, and its length in seconds. */
export function soundOf({ wav }) {
  const samples = new Int16Array(wav, HEAD_BYTES, Math.floor((wav.byteLength - HEAD_BYTES) / 2));
  return { samples, seconds: samples.length / new DataView(wav).getUint32(24, true) };
}

/** Samples of 16-bit PCM, one channel, as a WAV file. */
export function wavOf(samples, rate) {
  const wav = new ArrayBuffer(HEAD_BYTES + 2 * samples.length);
  const view = new DataView(wav);
  const text = (at, letters) => [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, wav.byteLength - 8, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  new Int16Array(wav, HEAD_BYTES).set(samples);
  return wav;
}

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let i = 0; i < 8; i++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function checksum(bytes) {
  let sum = 0xffffffff;
  for (const byte of bytes) sum = CRC[(sum ^ byte) & 0xff] ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}

/** What the two heads of a file in a zip archive have in common: stored as it is, its name in UTF-8. */
function headOf(bytes, name, time) {
  const view = new DataView(new ArrayBuffer(26));
  const date = ((time.getFullYear() - 1980) << 9) | ((time.getMonth() + 1) << 5) | time.getDate();
  view.setUint16(0, 20, true); // version that is needed
  view.setUint16(2, 0x800, true);
  view.setUint16(6, (time.getHours() << 11) | (time.getMinutes() << 5) | (time.getSeconds() >> 1), true);
  view.setUint16(8, date, true);
  view.setUint32(10, checksum(bytes), true);
  view.setUint32(14, bytes.length, true);
  view.setUint32(18, bytes.length, true);
  view.setUint16(22, name.length, true);
  return new Uint8Array(view.buffer);
}

/** Files, each [path, ArrayBuffer], as a zip archive. */
export function zipOf(files, time = new Date()) {
  const parts = [];
  const directory = [];
  let position = 0;
  for (const [path, content] of files) {
    const name = new TextEncoder().encode(path);
    const bytes = new Uint8Array(content);
    const head = headOf(bytes, name, time);
    const entry = new DataView(new ArrayBuffer(14));
    entry.setUint32(10, position, true);
    directory.push(Uint8Array.of(0x50, 0x4b, 1, 2, 20, 0), head, new Uint8Array(entry.buffer), name);
    parts.push(Uint8Array.of(0x50, 0x4b, 3, 4), head, name, bytes);
    position += 30 + name.length + bytes.length;
  }
  const end = new DataView(new ArrayBuffer(22));
  end.setUint32(0, 0x06054b50, true);
  end.setUint16(8, files.length, true);
  end.setUint16(10, files.length, true);
  end.setUint32(12, directory.reduce((n, { length }) => n + length, 0), true);
  end.setUint32(16, position, true);
  return new Blob([...parts, ...directory, end.buffer], { type: "application/zip" });
}
