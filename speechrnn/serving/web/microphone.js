// The microphone at the rate that the browser offers, as blocks of 16-bit PCM.

const BLOCKS_PER_S = 20;

const PROBLEMS = {
  NotAllowedError: "The browser refused the microphone. Allow it for this page, beside its address, and press the button again.",
  NotFoundError: "No microphone was found. Plug one in and press the button again.",
  OverconstrainedError: "That microphone is gone. Choose another one.",
  NotReadableError: "The microphone cannot be opened; another program may be using it.",
};

export class Microphone {
  /** Opens a microphone; `onBlock` gets each Int16Array, `onEnd` is called if the device goes away. */
  static async open(deviceId, { onBlock, onEnd }) {
    if (!navigator.mediaDevices) {
      throw new Error(
        "Browsers give a microphone only to secure pages: open this one as https, or at localhost. " +
        "The server takes --certfile and --keyfile. Recordings can be dropped below all the same.",
      );
    }
    const microphone = new Microphone();
    try {
      microphone.stream = await navigator.mediaDevices.getUserMedia({
        audio: {
          deviceId: deviceId ? { exact: deviceId } : undefined,
          echoCancellation: false,
          noiseSuppression: false,
          autoGainControl: false,
        },
      });
    } catch (error) {
      throw new Error(PROBLEMS[error.name] ?? `The microphone cannot be used (${error.message}).`);
    }
    await microphone.start(onBlock, onEnd);
    return microphone;
  }

  async start(onBlock, onEnd) {
    this.context = new AudioContext();
    await this.context.audioWorklet.addModule("pcm-worklet.js");
    await this.context.resume();
    this.rate = this.context.sampleRate;
    const node = new AudioWorkletNode(this.context, "pcm", {
      channelCount: 1,
      channelCountMode: "explicit",
      processorOptions: { blockSamples: Math.round(this.rate / BLOCKS_PER_S) },
    });
    node.port.onmessage = ({ data }) => onBlock(data);
    this.context.createMediaStreamSource(this.stream).connect(node);
    node.connect(this.context.destination); // silent, but what leads nowhere is not run
    const [track] = this.stream.getAudioTracks();
    track.onended = onEnd;
    this.deviceId = track.getSettings().deviceId;
  }

  close() {
    for (const track of this.stream.getTracks()) {
      track.onended = null;
      track.stop();
    }
    this.context.close();
  }
}

/** Fills a list with the microphones; without permission, browsers hide their names. */
export async function listMicrophones(select, selected = select.value) {
  const devices = await navigator.mediaDevices?.enumerateDevices() ?? [];
  const options = devices
    .filter(({ kind, deviceId }) => kind === "audioinput" && deviceId && deviceId !== "default")
    .map(({ deviceId, label }, i) => new Option(label || `Microphone ${i + 1}`, deviceId));
  select.replaceChildren(new Option("Default", ""), ...options);
  if (options.some(({ value }) => value === selected)) select.value = selected;
}
