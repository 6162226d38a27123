"""Send a recording to `speechrnn serve` as a microphone would, and print the words: websocket_client.py [URL]."""

import json
import sys

import soundfile
from websockets.sync.client import connect

url = sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8000/v1/listen"
samples, rate_hz = soundfile.read("examples/audio/commands.wav", dtype="int16")

with connect(url) as server:
    server.send(json.dumps({"type": "start", "rate_hz": rate_hz}))
    for start in range(0, len(samples), rate_hz // 20):  # 50 ms a message
        server.send(samples[start : start + rate_hz // 20].tobytes())
    server.send(json.dumps({"type": "finish"}))
    for message in server:
        for found in json.loads(message).get("detections", []):
            print(f"{found['end_s']:6.2f} s  {found['label']}")
