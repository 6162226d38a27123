"""Make the examples of other speech that own words are told apart from, for a shipped model: embeddings, no audio.

    python -m pipelines.make_negatives configs/commands10.toml commands10 --data data

Writes speechrnn/pretrained/MODEL.negatives.npz. It is made again whenever the weights of the model change. Speech and
words are those of speakers kept from training; words that the configuration holds out are left out here, too.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.inputs import parse_inputs
from speechrnn.audio import Samples
from speechrnn.cli.console import run_program, track
from speechrnn.config import load_experiment
from speechrnn.data.clips import Source
from speechrnn.data.pack import find_sources
from speechrnn.data.speech_commands import speaker_of
from speechrnn.decoding import read
from speechrnn.recognizer import Recognizer, load
from speechrnn.teaching.measuring import contexts_after, in_faint_noise
from speechrnn.teaching.model_file import base_scores
from speechrnn.teaching.negatives import N_POSITIONS, Negatives, Space, Speech, Words, embed_all, path_of, probe_of
from speechrnn.teaching.recordings import words_in

_N_DIRECTIONS, _N_PER_WORD, _N_NOISE = 96, 120, 12
_MAX_WORD_S = 2.4
_STEP_MS = 100

Array = NDArray[np.float32]


def half_of(speaker: str) -> int:
    """0 or 1, by the hash of the speaker."""
    return hashlib.sha1(speaker.encode()).digest()[0] % 2


def embed_stream(recognizer: Recognizer, samples: Samples) -> Array:
    """Embeddings [n, D] of every step of a stream [T] that begins in silence."""
    n = recognizer.info.spec.context_samples
    step = _STEP_MS * recognizer.info.spec.sample_rate_hz // 1000
    padded = np.concatenate([np.zeros(n, dtype=np.float32), samples])
    return embed_all(recognizer, np.lib.stride_tricks.sliding_window_view(padded, n)[step::step])


def embed_word(recognizer: Recognizer, samples: Samples) -> Array | None:
    """Embeddings [N_POSITIONS, D] of a word [T] as it leaves the context; None for a clip without a word."""
    spec = recognizer.info.spec
    words = words_in(samples, spec.sample_rate_hz)
    if len(words) != 1:
        return None
    stream, _, end = in_faint_noise(samples, words[0], spec)
    return embed_all(recognizer, contexts_after(stream, end, N_POSITIONS, spec, _STEP_MS))


def spaced(recognizer: Recognizer, embeddings: Array, of_words: Sequence[Array]) -> Space:
    """The directions that scores are made of, and those in which most of these embeddings [n, D] differ."""
    mean = embeddings.mean(axis=0)
    scores, n = base_scores(recognizer), embeddings.shape[1]
    linear = scores(np.eye(n, dtype=np.float32)) - scores(np.zeros((1, n), dtype=np.float32))
    of_scores, _ = np.linalg.qr(linear.astype(np.float64))
    centred = (embeddings - mean) - (embeddings - mean) @ of_scores @ of_scores.T
    _, vectors = np.linalg.eigh(centred.T @ centred)
    others = vectors[:, ::-1][:, : _N_DIRECTIONS - of_scores.shape[1]]
    directions = np.concatenate([of_scores, others], axis=1).astype(np.float32)
    deviations = np.concatenate([(one - one.mean(axis=0)) @ directions for one in of_words])
    within = deviations.T @ deviations / len(deviations)
    return Space(mean, directions, within, probe_of(recognizer))


def read_spans(path: Path, firsts: dict[str, int], context_ms: int) -> tuple[list[str], list[tuple[int, int]]]:
    """Words of a list of aligned words, and the rows of the recordings' contexts that have some of them in them."""
    words, spans = [], []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["audio"] in firsts:
                first = firsts[row["audio"]]
                start = first + int(float(row["start_s"]) * 1000 / _STEP_MS)
                words.append(row["label"])
                spans.append((start, first + int((float(row["end_s"]) * 1000 + context_ms) / _STEP_MS)))
    return words, spans


def _noise(recognizer: Recognizer, base: Path, sources: Sequence[Source]) -> Iterator[Array]:
    for source in sources:
        rows = embed_stream(recognizer, read(base / source.path, recognizer.info.spec.sample_rate_hz)[-480000:])
        yield rows[-(len(rows) * 4 // 5) :: max(1, len(rows) // _N_NOISE)]


def make(
    recognizer: Recognizer, base: Path, sources: Sequence[Source], held_out: Sequence[str], aligned: Path
) -> Negatives:
    """Embed all of it."""
    rate_hz = recognizer.info.spec.sample_rate_hz
    speech = [one for one in sources if one.kind == "speech" and one.split == "validation"]
    streams = [embed_stream(recognizer, read(base / one.path, rate_hz)) for one in track(speech, len(speech), "speech")]
    by_word: dict[str, list[Source]] = defaultdict(list)
    for one in sources:
        if one.kind in ("command", "word") and one.split == "validation" and one.word not in held_out:
            by_word[one.word].append(one)
    clips = [one for some in by_word.values() for one in some[:: -(-len(some) // _N_PER_WORD)]]
    embedded = [
        (one, rows)
        for one in track(clips, len(clips), "words")
        if (rows := embed_word(recognizer, read(base / one.path, rate_hz)[: round(_MAX_WORD_S * rate_hz)])) is not None
    ]
    noise = np.concatenate([*_noise(recognizer, base, [one for one in sources if one.kind == "noise"])])
    rows = np.stack([rows for _, rows in embedded])
    alike = [
        np.concatenate([r for other, r in embedded if other.word == word]) for word in {one.word for one, _ in embedded}
    ]
    space = spaced(
        recognizer, np.concatenate([*streams, *rows, noise]), [one for one in alike if len(one) > 2 * N_POSITIONS]
    )
    firsts = np.cumsum([0, *map(len, streams)])[:-1]
    at = {one.path: int(first) for one, first in zip(speech, firsts, strict=True)}
    spoken, spans = read_spans(aligned, at, recognizer.info.spec.context_ms)
    return Negatives(
        space,
        Speech(
            space.reduce(np.concatenate(streams)),
            firsts,
            np.array([half_of(Path(one.path).name.partition("-")[0]) for one in speech]),
            tuple(spoken),
            np.array(spans, dtype=np.int64).reshape(-1, 2),
        ),
        Words(
            space.reduce(rows),
            tuple(one.word for one, _ in embedded),
            np.array([half_of(speaker_of(one.path)) for one, _ in embedded]),
        ),
        space.reduce(noise),
        _STEP_MS,
    )


def main() -> None:
    """Make the file and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments = parse_inputs(parser)
    recognizer = load(arguments.model)
    data = load_experiment(arguments.config, data_dir=arguments.data).data
    base = Path(data.dir)
    negatives = make(recognizer, base, find_sources(data), data.held_out, base / data.unknown.aligned.list)
    path = path_of(arguments.model)
    negatives.save(path)
    words = negatives.words
    print(
        f"{path}: {path.stat().st_size / 1e6:.1f} MB, {negatives.hours:.2f} hours of speech, "
        f"{len(words.names)} clips of {len({*words.names})} words, {len(negatives.noise)} contexts of noise"
    )


if __name__ == "__main__":
    run_program(main)
