"""One second of sound on its way to a decision: from the waveform to the posterior of every class."""

import soundfile

import speechrnn

recognizer = speechrnn.load("commands10")
spec = recognizer.info.spec
samples, rate_hz = soundfile.read("examples/audio/commands.wav", dtype="float32")  # [T] in [-1, 1]
context = samples[int(0.8 * rate_hz) :][: spec.context_samples]  # [16000]: the second around "yes"

frames = spec.features.n_frames(len(context), rate_hz)
print(f"{len(context)} samples become {frames} frames of {spec.features.n_features} MFCCs inside the network")
for label, posterior in zip(recognizer.labels, recognizer.posteriors(context[None])[0], strict=True):
    print(f"{label:<8} {posterior:6.3f} {'#' * round(40 * posterior)}")
