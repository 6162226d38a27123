"""Score what is found in a recording against what was spoken in it, and say what went wrong."""

from pathlib import Path

import speechrnn
from speechrnn.evaluation.ground_truth import read_ground_truth
from speechrnn.evaluation.streams import ScoredRecording, score

recording = Path("examples/audio/drive.flac")
recognizer = speechrnn.load("commands10")
with speechrnn.FileSource(recording) as source:
    duration_s = source.duration_s or 0.0
    found = speechrnn.transcribe(source, model=recognizer)
truth = read_ground_truth(recording.with_suffix(".labels.txt"), recording.stem)
result = score([ScoredRecording(recording.name, duration_s, found, truth)], recognizer.info.spec.labels.keywords)

print(f"{result.n_hits} of {result.n_spoken} keywords found, {result.n_false_alarms} false alarms")
print(f"median delay from the end of a word: {result.delay_p50_ms:.0f} ms")
for alarm in result.alarms:
    print(f"{alarm.kind}: {alarm.label} at {alarm.decided_s:.2f} s")
