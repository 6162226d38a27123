// The conversation with the server, which begins again by itself when it breaks.

const MALFORMED = 1007;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 5000;
const MAX_BEHIND_S = 3;

export class Connection {
  /**
   * `onMessage` gets each message of the server with the time, in samples pushed so far, at which its clock began.
   * `onState` gets "open", "lost" or "refused", and why, where that is known.
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
    let began = 0;
    let reason = "";
    socket.onopen = () => {
      socket.send(JSON.stringify({ type: "start", ...this.start }));
      began = this.answered = this.pushed;
    };
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (message.type === "error") reason = message.message;
      if (message.type === "ready") {
        this.waitMs = FIRST_WAIT_MS;
        this.onState("open", "");
      }
      if (message.type === "decision" && socket === this.socket) this.answered = began + message.time_s * this.start.rate_hz;
      this.onMessage(message, began);
    };
    socket.onclose = ({ code }) => {
      if (socket === this.socket) this.lose(reason, code !== MALFORMED);
    };
    this.socket = socket;
  }

  /** Sends a block of 16-bit PCM; one that cannot be sent now is lost. */
  push(block) {
    if (this.socket?.readyState === WebSocket.OPEN) {
      this.socket.send(block);
      // Better a gap, and room for others, than words that come ever later.
      if (this.pushed - this.answered > MAX_BEHIND_S * this.start.rate_hz) this.lose("the server cannot keep up", true);
    }
    this.pushed += block.length;
  }

  lose(reason, again) {
    this.socket.onclose = null;
    this.socket.close();
    this.socket = null;
    this.onState(again ? "lost" : "refused", reason);
    if (!again) return;
    this.timer = setTimeout(() => this.open(), this.waitMs);
    this.waitMs = Math.min(2 * this.waitMs, LONGEST_WAIT_MS);
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
    if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type: "finish" }));
    else socket?.close();
  }
}
