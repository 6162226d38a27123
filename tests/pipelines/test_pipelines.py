"""The pipelines that measure listening: synthetic streams, endurance, PocketSphinx, hard negatives."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipelines import evaluate_held_out, inputs, mine_hard_negatives
from pipelines import make_stream as make_stream_command
from pipelines.benchmarks import endurance, robustness
from pipelines.media import make_picture
from pipelines.studies import compare_cells, compare_pocketsphinx
from speechrnn.audio import Samples, speech_power, to_int16
from speechrnn.cli.console import run_program
from speechrnn.config import load_experiment
from speechrnn.data.annotations import FalseAlarm, read_hard_negatives
from speechrnn.data.clips import Pack
from speechrnn.data.pack import prepare
from speechrnn.decoding import read
from speechrnn.detector import Detection
from speechrnn.errors import ConfigError, DataError, OutputError
from speechrnn.evaluation import synthetic_streams
from speechrnn.evaluation.ground_truth import Word, count_words, find_ground_truth, read_ground_truth
from speechrnn.evaluation.synthetic_streams import (
    PRESETS,
    SPEECH,
    Material,
    Recipe,
    Sound,
    make_stream,
    of_folders,
    of_pack,
)
from speechrnn.recognizer import cached, load
from tests import made_data
from tests.helpers import RATE_HZ, assert_one_line, fake_recognizer, noise, silence, word, write_audio

ROOT = Path(__file__).parents[2]
KEYWORDS = ("yes", "no")
WORDS = [Word("yes", 1.0, 1.5), Word("bed", 3.0, 3.5), Word("no", 5.0, 5.5), Word("no", 5.9, 6.4)]
RECORDING = compare_pocketsphinx.TestRecording(
    np.zeros(10 * RATE_HZ, dtype=np.int16), WORDS, np.zeros(30 * RATE_HZ, dtype=np.int16)
)


def detection(label: str, decided_s: float) -> Detection:
    return Detection(label, decided_s - 0.6, decided_s - 0.1, 0.9, decided_s)


WORDY = Recipe(duration_s=60.0, slot_s=2.0)


def test_a_stream_holds_validation_words_where_it_says(made_pack: Pack) -> None:
    stream, words = make_stream(of_pack(made_pack, KEYWORDS), WORDY, 1)
    assert len(stream) == 60 * RATE_HZ
    assert len(words) == 30
    assert sum(word.label in KEYWORDS for word in words) == 21
    assert {word.label for word in words} > {*KEYWORDS}
    energy = np.cumsum(stream**2)
    in_words = sum(energy[round(end * RATE_HZ) - 1] - energy[round(start * RATE_HZ)] for _, start, end in words)
    assert in_words > 0.9 * energy[-1]
    assert [int(start_s / 2.0) for _, start_s, _ in words] == list(range(30))
    places_s = [word.start_s % 2.0 for word in words]
    assert max(places_s) - min(places_s) > 0.5


@pytest.mark.parametrize("preset", PRESETS)
def test_the_same_seed_makes_the_same_stream_of_every_preset(preset: str, made_pack: Pack) -> None:
    material, recipe = of_pack(made_pack, KEYWORDS), PRESETS[preset]._replace(duration_s=48.0)
    stream, words = make_stream(material, recipe, 1)
    again, words_again = make_stream(material, recipe, 1)
    other, _ = make_stream(material, recipe, 2)
    np.testing.assert_array_equal(stream, again)
    assert words == words_again
    assert not np.array_equal(stream, other)
    assert np.abs(stream).max() <= 1
    spoken = [word for word in words if word.label != SPEECH]
    n_slots = int(48.0 / recipe.slot_s)
    assert len(spoken) == round(recipe.keyword_fraction * n_slots) + round(recipe.unknown_fraction * n_slots)
    assert len(words) - len(spoken) == round(recipe.speech_fraction * n_slots)


@pytest.mark.parametrize(
    ("preset", "minutes", "n_words", "n_keywords"), [("tensorflow", 10, 200, 140), ("mlperf", 20, 200, 50)]
)
def test_the_presets_of_others_have_their_numbers(
    preset: str, minutes: int, n_words: int, n_keywords: int, made_pack: Pack
) -> None:
    stream, words = make_stream(of_pack(made_pack, KEYWORDS), PRESETS[preset], 3)
    assert len(stream) == minutes * 60 * RATE_HZ
    assert len(words) == n_words
    assert sum(word.label in KEYWORDS for word in words) == n_keywords


def test_noise_lies_under_all_of_a_stream_as_loud_as_asked(made_pack: Pack) -> None:
    material = of_pack(made_pack, KEYWORDS)
    pink = material._replace(noise=[noise(5 * RATE_HZ)])
    clean, words = make_stream(pink, WORDY, 1)
    noisy, _ = make_stream(pink, WORDY._replace(snr_db=(10.0, 10.0), noise_piece_s=2.0), 1)
    added = noisy - clean
    steps = added[: len(added) // 160 * 160].reshape(-1, 160)
    assert np.abs(steps).max(axis=1).min() > 1e-4
    ratios_db = []
    for slot, (_, start_s, end_s) in enumerate(words):
        middle = added[(2 * slot + 1) * RATE_HZ - 4000 : (2 * slot + 1) * RATE_HZ + 4000]
        clip = clean[round(start_s * RATE_HZ) : round(end_s * RATE_HZ)]
        ratios_db.append(10 * np.log10(speech_power(clip, RATE_HZ) / np.square(middle).mean()))
    assert np.median(ratios_db) == pytest.approx(10, abs=1)
    drawn, _ = make_stream(pink, WORDY._replace(noise_gain=(0.0, 0.1), noise_piece_s=1.0), 1)
    assert 0 < np.square(drawn - clean).mean() < np.square(0.1 * pink.noise[0]).mean()


@pytest.mark.parametrize("level_db", [-45.0, -25.0])
def test_words_are_brought_to_a_level(level_db: float, made_pack: Pack) -> None:
    stream, words = make_stream(of_pack(made_pack, KEYWORDS), WORDY._replace(level_db=level_db), 1)
    for _, start_s, end_s in words:
        power = speech_power(stream[round(start_s * RATE_HZ) : round(end_s * RATE_HZ)], RATE_HZ)
        assert 10 * np.log10(power) == pytest.approx(level_db, abs=1.5)


def test_noise_is_what_training_does_not_have(made_pack: Pack) -> None:
    parts = of_pack(made_pack, KEYWORDS).noise
    clips = [clip for clip in made_pack.clips if clip.kind == "noise"]
    for part, clip in zip(parts, clips, strict=True):
        end = clip.offset + clip.n_samples
        assert len(part) == pytest.approx(0.2 * clip.n_samples, abs=1)
        np.testing.assert_array_equal(to_int16(part), made_pack.samples[end - len(part) : end])


@pytest.mark.parametrize(
    ("wanted", "changes", "part"),
    [
        (("yes", "no", "bed", "cat", "wow", "zero"), {}, "no other"),
        (("maybe",), {}, "no keyword"),
        (KEYWORDS, {"speech": []}, "no speech"),
        (KEYWORDS, {"noise": []}, "no noise"),
    ],
)
def test_a_stream_needs_what_its_recipe_wants(
    wanted: tuple[str, ...], changes: dict[str, Any], part: str, made_pack: Pack
) -> None:
    with pytest.raises(DataError) as caught:
        make_stream(of_pack(made_pack, wanted)._replace(**changes), PRESETS["mixed"], 1)
    assert_one_line(caught.value, part)


def test_material_of_folders_leaves_out_speech_in_which_a_keyword_is_spoken(tmp_path: Path) -> None:
    for name in ("yes/a", "bed/b", "_silence_/c", "speech/1", "speech/2"):
        write_audio(tmp_path / "all" / f"{name}.wav", noise(RATE_HZ))
    speech = tmp_path / "all" / "speech"
    (speech / "transcripts.txt").write_text("1 THEY SAID YES\n2 THEY DID NOT\n")
    material = of_folders(KEYWORDS, tmp_path / "all", speech, speech)
    assert {word: len(clips) for word, clips in material.keywords.items()} == {"yes": 1}
    assert sorted(sound.label for sound in material.others) == ["bed", "speech", "speech"]
    assert (len(material.speech), len(material.noise)) == (1, 2)
    assert len(of_folders(["Yes"], tmp_path / "all", None, speech).speech) == 1
    (speech / "transcripts.txt").unlink()
    assert len(of_folders(KEYWORDS, tmp_path / "all", None, speech).speech) == 2


def test_a_stream_is_written_with_its_truth_and_scored_by_the_command(
    made_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "stream.wav"
    commands = str(made_dir / "SpeechCommands" / "speech_commands_v0.02")
    arguments = ["make_stream", str(target), "--preset", "clean", "--minutes", "0.5", "--keywords", "yes,no"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--clips", commands])
    make_stream_command.main()
    words = read_ground_truth(find_ground_truth(target, None), "stream")
    assert len(read(target, RATE_HZ)) == 30 * RATE_HZ
    assert (len(words), sum(word.label in KEYWORDS for word in words if isinstance(word, Word))) == (10, 7)


def test_names_of_keywords_may_have_spaces_around_them(
    made_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = str(made_dir / "SpeechCommands" / "speech_commands_v0.02")
    arguments = ["make_stream", str(tmp_path / "stream.wav"), "--preset", "clean", "--minutes", "1"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--keywords", "yes, no", "--clips", commands])
    make_stream_command.main()
    labels = [line.split("\t")[2] for line in (tmp_path / "stream.labels.txt").read_text().splitlines()]
    assert {*labels} == {"yes", "no", "bed"}
    assert labels.count("bed") == 6


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "either --config CONFIG or --clips"),
        (["--config", "a.toml", "--clips", "b"], "either --config CONFIG or --clips"),
        (["--clips", "b"], "--keywords"),
        (["--clips", "b", "--keywords", " , "], "--keywords"),
        (["--config", "a.toml", "--noise", "b"], "belong to --clips"),
    ],
)
def test_material_is_named_one_way(
    arguments: list[str], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["make_stream", str(tmp_path / "a.wav"), *arguments])
    with pytest.raises(ConfigError) as caught:
        make_stream_command.main()
    assert_one_line(caught.value, part)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["s.xyz"], ["s.xyz", "such as stream.wav"]),
        (["s"], ["s: ", "such as stream.wav"]),
        (["a.wav/s.wav"], ["a.wav/s.wav", "cannot write there"]),
        (["s.wav", "--minutes", "-1"], ["--minutes -1"]),
        (["s.wav", "--minutes", "0"], ["--minutes 0"]),
        (["s.wav", "--minutes", "0.01"], ["--minutes 0.01", "slots of 3 s"]),
        (["s.wav", "--minutes", "nan"], ["--minutes nan"]),
        (["s.wav", "--minutes", "inf"], ["--minutes inf"]),
        (["s.wav", "--seed", "-1"], ["--seed -1"]),
        (["s.wav", "--keywords", "yes, no, banana"], ["clips: has no clips of no, banana"]),
        (["s.wav", "--clips", "lost"], ["lost: expected a folder", "--clips"]),
        (["s.wav", "--noise", "lost"], ["lost: expected a folder", "--noise"]),
        (["s.wav", "--speech", "lost"], ["lost: expected a folder", "--speech"]),
    ],
    ids=lambda given: " ".join(given),
)
def test_what_no_stream_can_be_made_of_is_one_line_before_the_work(
    arguments: list[str],
    parts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "clips/yes/0.wav", "clips/bed/0.wav", "a.wav":
        write_audio(Path(name), noise(RATE_HZ))
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(make_stream_command, "make_stream", lambda *given: pytest.fail("the work was begun"))
    target, *others = arguments
    defaults = ["--preset", "clean", "--clips", "clips", "--keywords", "yes"]
    monkeypatch.setattr(sys, "argv", ["make_stream", target, *defaults, *others])
    with pytest.raises(SystemExit) as caught:
        run_program(make_stream_command.main)
    assert caught.value.code == 2
    assert_one_line(Exception(capsys.readouterr().err.rstrip("\n")), "speechrnn: ", *parts)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_cached_recognizer_answers_the_same_and_runs_once_for_each_context() -> None:
    asked: list[Samples] = []
    plain, remembered = fake_recognizer(), cached(fake_recognizer(seen=asked))
    contexts = np.stack([noise(RATE_HZ), np.concatenate([silence(0.5), word("yes", 0.5)]), noise(RATE_HZ)])
    for context in contexts:
        np.testing.assert_array_equal(remembered.logits(context[None]), plain.logits(context[None]))
    assert len(asked) == 2


def test_an_hour_is_as_long_as_asked_and_the_same_for_the_same_seed() -> None:
    words = endurance.read_words(endurance.EXAMPLES, RATE_HZ)
    blocks = list(endurance.make_hour(words, 60 * RATE_HZ, RATE_HZ, seed=3))
    again = list(endurance.make_hour(words, 60 * RATE_HZ, RATE_HZ, seed=3))
    assert sum(len(samples) for _, samples in blocks) == 60 * RATE_HZ
    assert [label for label, _ in blocks] == [label for label, _ in again]
    np.testing.assert_array_equal(np.concatenate([b for _, b in blocks]), np.concatenate([b for _, b in again]))
    assert (blocks[-1].label, len(blocks[-1].samples) >= 1.5 * RATE_HZ) == ("", True)


@pytest.mark.slow
def test_minutes_of_listening_leave_memory_flat_and_end_as_they_began() -> None:
    hours = list(endurance.endure(load("commands10"), 4, 60))
    assert [[found.label for found in hour.found] for hour in hours] == [hour.keywords for hour in hours]
    assert hours[0].keywords != hours[1].keywords
    assert endurance.problems(hours[0], hours[-1]) == []


def test_endurance_tells_what_is_wrong() -> None:
    found = [endurance.Found("yes", 0, 500, 0.9)]
    first = endurance.Hour(80.0, ["yes"], found)
    assert endurance.problems(first, endurance.Hour(81.0, ["yes"], list(found))) == []
    (grown,) = endurance.problems(first, endurance.Hour(99.0, ["yes"], list(found)))
    assert "from 80.0 MB" in grown
    (other,) = endurance.problems(first, endurance.Hour(80.0, ["yes"], [found[0]._replace(score=0.8999)]))
    assert "last hour" in other


@pytest.mark.parametrize(
    ("in_stream", "in_speech", "expected"),
    [
        ([], [], {"yes": 0, "no": 0}),
        ([detection("yes", 1.7), detection("no", 5.6), detection("no", 6.6)], [], {"yes": 1, "no": 1}),
        ([detection("yes", 1.7), detection("yes", 3.6)], [], {"yes": 2 / 3, "no": 0}),
        ([detection("no", 5.6)], [detection("no", 9.0)], {"yes": 0, "no": 1 / 2}),
    ],
)
def test_the_f1_of_each_keyword(
    in_stream: list[Detection], in_speech: list[Detection], expected: dict[str, float]
) -> None:
    found = compare_pocketsphinx.Result(in_stream, in_speech, 0.0)
    assert compare_pocketsphinx.f1_scores(found, RECORDING, KEYWORDS) == pytest.approx(expected)


def test_the_comparison_is_a_row_of_the_one_scorer() -> None:
    in_stream = [detection("yes", 1.7), detection("no", 3.6), detection("yes", 5.8)]
    found = compare_pocketsphinx.Result(in_stream, [detection("no", 9.0)], 0.015)
    row = compare_pocketsphinx.row("speechrnn", found, RECORDING, KEYWORDS)
    assert row == ("speechrnn", "1.5 %", "33.3 %", "66.7 %", "120", "200", "200")


def test_of_running_speech_the_comparison_takes_what_was_trained_on(made_pack: Pack) -> None:
    pack, others = compare_pocketsphinx.make_recordings(made_pack, KEYWORDS)
    trained_on = sum(clip.n_samples for clip in made_pack.clips if clip.kind == "speech")
    assert len(pack.speech) + len(others.speech) == trained_on
    mute = made_pack._replace(clips=[clip for clip in made_pack.clips if clip.kind != "speech"])
    assert [len(one.speech) for one in compare_pocketsphinx.make_recordings(mute, KEYWORDS)] == [0, 0]


class FakeDecoder:
    """Spots as PocketSphinx does: the words since `start_utt`, in frames of 10 ms since then."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def start_utt(self) -> None:
        self.calls.append("start")
        self.blocks: list[bytes] = []

    def end_utt(self) -> None:
        self.calls.append("end")

    def process_raw(self, block: bytes) -> None:
        self.blocks.append(block)

    def hyp(self) -> str | None:
        return "yes  no" if any(self.blocks[-1]) else None

    def seg(self) -> list[SimpleNamespace]:
        n_frames = 10 * len(self.blocks)
        return [
            SimpleNamespace(word="yes ", prob=0.5, start_frame=0, end_frame=n_frames),
            SimpleNamespace(word="no ", prob=0.9, start_frame=n_frames - 10, end_frame=n_frames),
        ]


def test_of_what_pocketsphinx_finds_at_once_the_most_probable_counts_and_the_search_starts_anew() -> None:
    decoder = FakeDecoder()
    samples = to_int16(np.concatenate([silence(0.5), word("yes", 0.1), silence(0.4), word("yes", 0.1)]))
    first, second = compare_pocketsphinx.spot_pocketsphinx(decoder, samples)
    assert first == Detection("no", 0.5, 0.6, 0.9, 0.6)
    assert (second.label, second.decided_s) == ("no", 1.1)
    assert [second.start_s, second.end_s] == pytest.approx([1.0, 1.1])
    assert decoder.calls == ["start", "end", "start", "end", "start", "end"]


def test_both_spot_in_the_same_recording() -> None:
    samples = to_int16(read(endurance.EXAMPLES / "commands.wav", RATE_HZ))
    by_pocketsphinx = list(
        compare_pocketsphinx.spot_pocketsphinx(compare_pocketsphinx.make_decoder({"stop": 1e-2, "yes": 1e-5}), samples)
    )
    assert [found.label for found in by_pocketsphinx] == ["yes", "stop"]
    assert [found.decided_s for found in by_pocketsphinx] == pytest.approx([1.8, 11.2], abs=0.5)
    by_speechrnn = list(compare_pocketsphinx.spot_speechrnn(load("commands10"), samples))
    assert [found.label for found in by_speechrnn] == ["yes", "no", "up", "down", "left", "right", "stop", "go"]


def test_without_pocketsphinx_it_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["compare", "configs/commands10.toml", "commands10"])
    with pytest.raises(SystemExit) as caught:
        compare_pocketsphinx.main()
    assert caught.value.code == 2
    assert "pip install pocketsphinx" in capsys.readouterr().err


def test_every_level_and_ratio_is_measured_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robustness, "LEVELS_DB", (-12.0, -45.0))
    monkeypatch.setattr(robustness, "SNRS_DB", (60.0,))
    sounds = {name: [Sound(name, partial(word, name))] for name in ("yes", "no", "unknown")}
    material = Material({name: sounds[name] for name in ("yes", "no")}, sounds["unknown"], [], [noise(80000)])
    conditions = robustness.measure_all(fake_recognizer(), material, 0.5, (1, 2))
    assert [(c.what, c.db) for c in conditions] == [("level", -12), ("level", -45), ("speech over noise", 60)]
    assert [c.result.n_spoken for c in conditions] == [14, 14, 14]
    assert (conditions[1].result.miss_rate, conditions[2].result.miss_rate) == (1, 0)  # it knows words by level
    assert len(robustness.to_table(conditions).rows) == 3
    robustness.draw(conditions, tmp_path / "levels.png")
    assert (tmp_path / "levels.png").read_bytes().startswith(b"\x89PNG")


# Hard negatives


class FakeTranscriber:
    """Writes down one sentence for every recording, as PocketSphinx would."""

    text = "they never said anything of that"
    n_decoded = 0

    def __init__(self, **options: Any) -> None:
        self.options = options

    def start_utt(self) -> None:
        pass

    def end_utt(self) -> None:
        pass

    def process_raw(self, samples: bytes, *, full_utt: bool) -> None:
        assert full_utt and len(samples) > 0
        FakeTranscriber.n_decoded += 1

    def hyp(self) -> SimpleNamespace:
        return SimpleNamespace(hypstr=self.text)


@pytest.fixture
def talk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder in whose running speech "yes" seems to be said once, and "no" in the other recording."""
    root = made_data.write(tmp_path / "data", n_speakers=10, n_takes=1)
    for name, said in ("0", "yes"), ("1", "no"):
        samples = np.concatenate([silence(2.0), word(said, 0.4), silence(2.0)])
        write_audio(root / "speech" / "training" / f"{name}.wav", samples, subtype="PCM_16")
    monkeypatch.setattr(inputs, "load", lambda name: fake_recognizer())
    monkeypatch.setitem(sys.modules, "pocketsphinx", SimpleNamespace(Decoder=FakeTranscriber))
    FakeTranscriber.n_decoded = 0
    return root


def mined(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[FalseAlarm]:
    """What is in the file once the pipeline has run on the configuration of the smoke test."""
    monkeypatch.setattr(sys, "argv", ["mine", str(ROOT / "configs" / "smoke.toml"), "fake", "--data", str(root)])
    mine_hard_negatives.main()
    return read_hard_negatives(root / "hard_negatives.csv") if (root / "hard_negatives.csv").exists() else []


def test_what_is_taken_for_a_keyword_in_running_speech_is_listed_and_trained_on(
    talk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (talk / "speech" / "training" / "transcripts.txt").write_text("1 there is no doubt\n")
    (alarm,) = mined(talk, monkeypatch)
    assert (alarm.audio, alarm.label) == ("speech/training/0.wav", "yes")
    assert alarm.end_s == pytest.approx(2.4, abs=0.3)
    assert (talk / "speech" / "training" / "transcripts.txt").read_text().splitlines()[1:] == [
        f"0 {FakeTranscriber.text}"
    ]
    pack = prepare(made_data.data(talk, hard_negatives="hard_negatives.csv"))
    (clip,) = [clip for clip in pack.clips if clip.kind == "hard_negative"]
    samples = pack.samples_of(clip)
    assert len(samples) == 1.4 * RATE_HZ
    assert np.count_nonzero(np.abs(samples) > 1000) >= 0.35 * RATE_HZ


def test_speech_that_is_kept_for_validation_is_not_mined(talk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = load_experiment(
        ROOT / "configs" / "smoke.toml", ["data.speech_validation_fraction=0.999"], data_dir=str(talk)
    )
    for module in (mine_hard_negatives, inputs):
        monkeypatch.setattr(module, "load_experiment", lambda *args, **kwargs: kept)
    assert mined(talk, monkeypatch) == []


def test_mining_again_keeps_what_was_found_and_transcribes_nothing_twice(
    talk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = mined(talk, monkeypatch)
    assert sorted(alarm.label for alarm in first) == ["no", "yes"]
    assert FakeTranscriber.n_decoded == 2
    assert mined(talk, monkeypatch) == first
    assert FakeTranscriber.n_decoded == 2


@pytest.mark.parametrize("text", ["1 there is no doubt", "1 there is no doubt\n\n", "1 no\n0"])
def test_transcripts_cut_short_are_gone_on_with(talk: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    transcripts = talk / "speech" / "training" / "transcripts.txt"
    transcripts.write_text(text)
    mined(talk, monkeypatch)
    assert count_words(read_ground_truth(transcripts, "1"))["no"] == 1
    assert not count_words(read_ground_truth(transcripts, "0"))["yes"]


def test_labels_tell_of_a_keyword_as_transcripts_do(talk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (talk / "speech" / "training" / "0.labels.txt").write_text("2.0\t2.4\tyes\n")
    assert [alarm.label for alarm in mined(talk, monkeypatch)] == ["no"]
    kept = synthetic_streams.without_keywords(prepare(made_data.data(talk)), talk, KEYWORDS).clips
    assert "speech/training/0.wav" not in {clip.path for clip in kept}


def test_a_further_round_adds_to_the_list_that_the_configuration_names(
    talk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = load_experiment(
        ROOT / "configs" / "smoke.toml", ["data.unknown.hard_negative.list=list.csv"], data_dir=str(talk)
    )
    for module in (mine_hard_negatives, inputs):
        monkeypatch.setattr(module, "load_experiment", lambda *args, **kwargs: named)
    mined(talk, monkeypatch)
    (talk / "list.csv").write_text("audio,end_s,label,score\nspeech/training/0.wav,9.0,no,0.9\n")
    mined(talk, monkeypatch)
    assert [alarm.label for alarm in read_hard_negatives(talk / "list.csv")] == ["no", "yes", "no"]


def test_words_that_sound_like_the_keyword_are_no_false_alarms(talk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (talk / "speech" / "training" / "transcripts.txt").write_text("0 that is all\n1 I don't know\n")
    assert [alarm.label for alarm in mined(talk, monkeypatch)] == ["yes"]


def test_a_keyword_with_capitals_is_known_to_be_spoken(talk: Path) -> None:
    (talk / "speech" / "training" / "transcripts.txt").write_text("0 they said yes\n1 they did not\n")
    places = [FalseAlarm(f"speech/training/{name}.wav", 2.4, "Yes", 0.9) for name in "01"]
    assert [mine_hard_negatives.is_false(place, talk) for place in places] == [False, True]


def test_without_transcripts_mining_needs_pocketsphinx(talk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(DataError, match="no transcript, and no pocketsphinx to write one; install it"):
        mined(talk, monkeypatch)
    assert not (talk / "hard_negatives.csv").exists()


def test_running_speech_known_to_have_a_keyword_is_left_out(talk: Path) -> None:
    pack = prepare(made_data.data(talk))
    (talk / "speech" / "training" / "transcripts.txt").write_text("0 Yes, sir\n")
    kept = synthetic_streams.without_keywords(pack, talk, KEYWORDS).clips
    assert {clip.path for clip in pack.clips} - {clip.path for clip in kept} == {"speech/training/0.wav"}


HELD_OUT = ["configs/commands10.toml", "commands10", "--clips", "examples/audio"]


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (robustness.main, ["configs/commands10.toml", "commands10", "--picture", "PLACE.xyz"]),
        (evaluate_held_out.main, [*HELD_OUT, "--speech", "examples/audio", "--curve", "PLACE.xyz"]),
        (evaluate_held_out.main, [*HELD_OUT, "--speech", "examples/audio", "--curve", "PLACE.json"]),
        (make_picture.main, ["examples/audio/commands.wav", "PLACE.xyz"]),
        (compare_cells.main, ["configs/smoke.toml", "--docs", "PLACE"]),
    ],
)
def test_a_picture_that_cannot_be_written_is_known_before_the_work(
    main: Callable[[], None], arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, work in (inputs, "load"), (make_picture, "load"), (compare_cells, "load_experiment"):
        monkeypatch.setattr(module, work, lambda *given, **named: pytest.fail("the work was begun"))
    place = write_audio(tmp_path / "file.wav", silence(0.1))  # no folder, and no picture
    monkeypatch.setattr(sys, "argv", ["draw", *(part.replace("PLACE", str(place)) for part in arguments)])
    with pytest.raises(OutputError) as caught:
        main()
    assert_one_line(caught.value, str(place))


def test_a_curve_of_false_alarms_needs_the_speech_to_count_them_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "load", lambda name: pytest.fail("the work was begun"))
    monkeypatch.setattr(sys, "argv", ["evaluate_held_out", *HELD_OUT, "--curve", str(tmp_path / "curve.png")])
    with pytest.raises(ConfigError) as caught:
        evaluate_held_out.main()
    assert_one_line(caught.value, "--curve", "--speech")


@pytest.mark.parametrize("pipeline", ["mine_hard_negatives", "benchmarks.robustness"])
def test_a_missing_model_is_one_line(pipeline: str) -> None:
    command = [sys.executable, "-m", f"pipelines.{pipeline}", "configs/commands10.toml", "no-such-model"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "no-such-model: no such model" in result.stderr
