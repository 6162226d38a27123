// The conversation with the server, which begins again by itself when it breaks.

const MALFORMED = 1007;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 5000;
const MOST_WAITING_S = 3;

export class Connection {
  /**
   * `onMessage` gets each message of the server with the time, in samples pushed so far, at which its clock began.
   * `onState` gets "open", "lost" or "refused", and the server's own words where it gave any.
   */
  constructor(start, { onMessage, onState }) {
    this.start = start;
    this.onMessage = onMessage;
    this.onState = onState;
    this.pushed = 0;
    this.waitMs = FIRST_WAIT_MS;
    this.open();
  }

  open() {
    const address = new URL("v1/listen", location.href);
    address.protocol = location.protocol.replace("http", "ws");
    const socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    let began = null;
    let reason = "";
    socket.onopen = () => {
      socket.send(JSON.stringify({ type: "start", ...this.start }));
      began = this.pushed;
    };
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (message.type === "error") reason = message.message;
      if (message.type === "ready") {
        this.waitMs = FIRST_WAIT_MS;
        this.onState("open", "");
      }
      this.onMessage(message, began);
    };
    socket.onclose = ({ code }) => {
      if (socket !== this.socket) return;
      this.onState(code === MALFORMED ? "refused" : "lost", reason);
      if (code === MALFORMED) return;
      this.timer = setTimeout(() => this.open(), this.waitMs);
      this.waitMs = Math.min(2 * this.waitMs, LONGEST_WAIT_MS);
    };
    this.socket = socket;
  }

  /** Sends a block of 16-bit PCM; one that cannot be sent now is not heard. */
  push(block) {
    const { socket } = this;
    if (socket.readyState === WebSocket.OPEN) {
      if (socket.bufferedAmount < 2 * MOST_WAITING_S * this.start.rate_hz) socket.send(block);
      else socket.close(); // better a gap than words that come too late
    }
    this.pushed += block.length;
  }

  /** Begins a new conversation, for instance with another threshold. */
  restart(start) {
    this.close();
    this.start = start;
    this.waitMs = FIRST_WAIT_MS;
    this.open();
  }

  /** Ends the conversation; the server still answers for the last word. */
  close() {
    clearTimeout(this.timer);
    const { socket } = this;
    this.socket = null;
    if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type: "finish" }));
    else socket.close();
  }
}
