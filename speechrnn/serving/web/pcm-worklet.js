// Samples of the first channel as blocks of 16-bit PCM; runs in the audio thread.

class Pcm extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    this.size = processorOptions.blockSamples;
    this.block = new Int16Array(this.size);
    this.filled = 0;
  }

  process([[samples = []]]) {
    for (const sample of samples) {
      this.block[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(sample * 32768)));
      if (this.filled === this.size) {
        this.port.postMessage(this.block, [this.block.buffer]);
        this.block = new Int16Array(this.size);
        this.filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("pcm", Pcm);
