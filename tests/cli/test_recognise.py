"""The verbs on recordings: what they print, where they write, and one line for what cannot be read."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechrnn.cli.describe import describe_model
from speechrnn.labels import Labels
from speechrnn.model.network import RecognizerNet, save_checkpoint
from speechrnn.spec import Classifier, ModelInfo, OperatingPoint, Spec
from tests.cli.bad_audio import empty, missing, not_a_number
from tests.helpers import COMMAND, EXAMPLE, ROOT, assert_one_line, noise, run, silence, write_audio

WORDS = ["yes", "no", "up", "down", "left", "right", "stop", "go"]


def labels(output: str) -> list[str]:
    return [found["label"] for found in json.loads(output)["detections"]]


def test_transcribe_prints_a_table_of_words_and_times() -> None:
    result = run("transcribe", EXAMPLE)
    assert result.returncode == 0
    assert result.stderr == ""
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [row[0] for row in rows if len(row) == 4 and row[0] != "word"] == WORDS


def test_json_of_one_file_is_an_object() -> None:
    document = json.loads(run("transcribe", EXAMPLE, "--format", "json").stdout)
    assert document.keys() == {"audio", "duration_s", "detections"}
    assert document["audio"] == str(EXAMPLE)
    assert document["duration_s"] == pytest.approx(soundfile.info(EXAMPLE).duration, abs=1e-3)
    for found in document["detections"]:
        assert found.keys() == {"label", "start_s", "end_s", "score", "decided_s"}
        assert 0 < found["decided_s"] - found["end_s"] < 1
    assert labels(json.dumps(document)) == WORDS


def test_a_folder_gives_an_object_for_each_file() -> None:
    documents = json.loads(run("transcribe", "examples/audio", "--format", "json").stdout)
    assert [Path(document["audio"]).name for document in documents] == ["commands.wav", "drive.flac", "menu.ogg"]


def test_of_several_files_the_one_that_can_be_read_is_still_in_an_array(tmp_path: Path) -> None:
    result = run("transcribe", EXAMPLE, tmp_path / "missing.wav", empty(tmp_path), "--format", "json")
    assert result.returncode == 2
    assert [document["audio"] for document in json.loads(result.stdout)] == [str(EXAMPLE)]


def test_recordings_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(EXAMPLE, tmp_path / folder)
    arguments: list[str | Path] = [tmp_path / "a", tmp_path / "b", "--format", "srt", "--output", tmp_path / "titles"]
    assert_one_line(run("transcribe", *arguments), "commands")
    assert not (tmp_path / "titles").exists()


def test_output_goes_to_a_file(tmp_path: Path) -> None:
    target = tmp_path / "new" / "words.csv"
    result = run("transcribe", EXAMPLE, "--format", "csv", "--output", target)
    assert (result.returncode, result.stdout) == (0, "")
    assert [row["label"] for row in csv.DictReader(io.StringIO(target.read_text()))] == WORDS


def test_subtitles_of_several_files_go_to_a_folder(tmp_path: Path) -> None:
    assert run("transcribe", "examples/audio", "--format", "srt", "--output", tmp_path / "titles").returncode == 0
    assert sorted(path.name for path in (tmp_path / "titles").iterdir()) == ["commands.srt", "drive.srt", "menu.srt"]
    assert "one recording" in run("transcribe", "examples/audio", "--format", "srt").stderr


@pytest.mark.parametrize("old", ["words,of,before\n", None])
def test_an_output_file_is_not_touched_when_nothing_could_be_done(old: str | None, tmp_path: Path) -> None:
    target = tmp_path / "words.csv"
    if old is not None:
        target.write_text(old)
    assert run("transcribe", empty(tmp_path), "--format", "csv", "--output", target).returncode == 2
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".wav"] == ([] if old is None else ["words.csv"])
    assert old is None or target.read_text() == old


def test_what_is_done_is_written_although_another_recording_failed(tmp_path: Path) -> None:
    target = tmp_path / "words.csv"
    assert run("transcribe", EXAMPLE, empty(tmp_path), "--format", "csv", "--output", target).returncode == 2
    assert [row["label"] for row in csv.DictReader(io.StringIO(target.read_text()))] == WORDS


@pytest.mark.parametrize("files", [["commands.wav"], ["commands.wav", "menu.ogg"]])
def test_an_output_that_ends_in_a_slash_is_a_folder(files: list[str], tmp_path: Path) -> None:
    paths = [ROOT / "examples/audio" / file for file in files]
    assert run("transcribe", *paths, "--format", "json", "--output", f"{tmp_path}/new/").returncode == 0
    assert sorted(path.stem for path in (tmp_path / "new").glob("*.json")) == [path.stem for path in paths]


@pytest.mark.parametrize(("threshold", "expected"), [("1", []), ("yes=1", WORDS[1:])])
def test_thresholds_can_be_set_for_all_or_one(threshold: str, expected: list[str]) -> None:
    assert labels(run("transcribe", EXAMPLE, "--format", "json", "--threshold", threshold).stdout) == expected


@pytest.mark.parametrize(
    ("rate_hz", "channels", "subtype"), [(8000, 1, "PCM_16"), (16000, 8, "PCM_24"), (192000, 1, "FLOAT")]
)
def test_any_rate_and_channel_count_is_transcribed(tmp_path: Path, rate_hz: int, channels: int, subtype: str) -> None:
    import soxr

    samples, source_hz = soundfile.read(EXAMPLE, dtype="float32")
    resampled = soxr.resample(samples, source_hz, rate_hz)
    path = write_audio(
        tmp_path / "audio.wav", np.stack([resampled] * channels, axis=1).astype(np.float32), rate_hz, subtype
    )
    found = labels(run("transcribe", path, "--format", "json").stdout)
    assert len(set(WORDS) & set(found)) >= 5  # 8 kHz leaves out half of the spectrum


def test_50_ms_of_audio_is_enough_to_be_transcribed_and_classified(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "short.wav", noise(800))
    assert labels(run("transcribe", path, "--format", "json").stdout) == []
    assert run("classify", path).returncode == 0


def test_classify_gives_every_probability(tmp_path: Path) -> None:
    samples, rate_hz = soundfile.read(EXAMPLE, dtype="float32")
    path = write_audio(tmp_path / "yes.wav", samples[int(0.8 * rate_hz) : int(1.8 * rate_hz)])
    document = json.loads(run("classify", path, "--format", "json").stdout)
    assert document["label"] == "yes"
    assert set(document["probabilities"]) == {*WORDS, "on", "off", "unknown", "silence"}
    assert sum(document["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    many = json.loads(run("classify", path, path, "--format", "json").stdout)
    assert [item["label"] for item in many] == ["yes", "yes"]


def test_one_bad_file_among_many_leaves_the_others_done(tmp_path: Path) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_text("not audio")
    result = run("transcribe", bad, EXAMPLE, tmp_path / "missing.wav", "--format", "jsonl")
    assert result.returncode == 2
    assert labels(result.stdout) == WORDS
    assert len(result.stderr.splitlines()) == 3
    assert "2 of 3" in result.stderr


def a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.wav")
    return folder / "pipe.wav"


def text(folder: Path) -> Path:
    path = folder / "text.wav"
    path.write_text("these are words, not sound\n" * 50)
    return path


def truncated(folder: Path) -> Path:
    path = folder / "truncated.wav"
    path.write_bytes(EXAMPLE.read_bytes()[:50_000])
    return path


def no_samples(folder: Path) -> Path:
    return write_audio(folder / "none.wav", silence(0))


def no_audio_in_folder(folder: Path) -> Path:
    (folder / "notes.txt").write_text("nothing to hear")
    return folder


BAD_AUDIO = [
    (a_pipe, "transcribe -"),
    (missing, "no such file"),
    (empty, "empty file"),
    (text, "not readable as audio"),
    (truncated, "truncated"),
    (no_samples, "no samples"),
    (not_a_number, "NaN"),
    (no_audio_in_folder, "no audio in this folder"),
]


@pytest.mark.parametrize("verb", ["transcribe", "classify"])
@pytest.mark.parametrize(("make", "expected"), BAD_AUDIO, ids=[make.__name__ for make, _ in BAD_AUDIO])
def test_bad_audio_is_one_clear_line(verb: str, make: Callable[[Path], Path], expected: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    result = run(verb, path)
    assert_one_line(result, expected, str(path))


def test_a_full_output_device_is_one_clear_line() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    assert_one_line(run("transcribe", EXAMPLE, "--format", "csv", "--output", full), "/dev/full", "space")


@pytest.mark.parametrize("target", ["read-only/words.csv", "file/words.csv"])
def test_an_output_path_that_cannot_be_written_is_one_clear_line(target: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "read-only"
    folder.mkdir()
    folder.chmod(0o500)
    place = Path("/proc/1/words.csv") if target.startswith("read-only") and os.geteuid() == 0 else tmp_path / target
    assert_one_line(run("transcribe", EXAMPLE, "--format", "csv", "--output", place), str(place))


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error() -> None:
    command = shlex.join([*COMMAND, "transcribe", *["examples/audio"] * 3])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    shell = [*("bash", "-c"), f"{command} | head -n 1; exit ${{PIPESTATUS[0]}}"]
    result = subprocess.run(shell, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert result.stdout.startswith("examples/audio/commands.wav")
    assert (result.returncode, result.stderr) == (1, "")


def test_a_file_name_that_is_not_valid_text_is_transcribed(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/w\xf6rter.wav"))
    shutil.copy(EXAMPLE, path)
    commands: list[list[str | Path]] = [
        ["transcribe", path, "--format", "json"],
        ["transcribe", path],
        ["classify", path],
    ]
    for arguments in commands:
        result = run(*arguments)
        assert result.returncode == 0, result.stderr
        assert "w?rter.wav" in result.stdout


def pickled_code(folder: Path) -> Path:
    class Payload:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(folder / "owned"),)

    path = folder / "model.pt"
    path.write_bytes(pickle.dumps(Payload()))
    return path


def half_a_model(folder: Path) -> Path:
    path = folder / "model.onnx"
    content = (ROOT / "speechrnn" / "pretrained" / "commands10.onnx").read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder: "commands9", "commands10"),
        (lambda folder: folder / "missing.onnx", "no such model"),
        (half_a_model, "damaged"),
        (pickled_code, "refused"),
    ],
    ids=["unknown_name", "missing", "truncated", "pickled_code"],
)
@pytest.mark.parametrize("verb", ["transcribe", "describe"])
def test_bad_models_are_one_clear_line(
    verb: str, make: Callable[[Path], str | Path], expected: str, tmp_path: Path
) -> None:
    model = make(tmp_path)
    arguments = ["describe", model] if verb == "describe" else ["transcribe", EXAMPLE, "--model", model]
    assert_one_line(run(*arguments), expected)
    assert not (tmp_path / "owned").exists()


def test_describe_shows_the_shipped_model() -> None:
    output = run("describe", "commands10").stdout
    for expected in ("lstm", "yes no up down left right on off stop go", "threshold", "validation accuracy"):
        assert expected in output


@pytest.mark.parametrize(
    ("point", "shown"),
    [
        (
            OperatingPoint(threshold=0.9, release=0.5, false_alarms_per_hour=0.25, misses=0.125),
            {"threshold": "0.9", "release": "0.5", "false_alarms_per_hour": "0.25", "misses": "12.5 %"},
        ),
        (
            OperatingPoint(threshold=0.9, false_alarms_per_hour=0.0, measured_hours=1.66),
            {"threshold": "0.9", "false_alarms_per_hour": "0 (0 in 1.66 h; 95 % upper bound 1.8)"},
        ),
        (
            OperatingPoint(threshold=0.9, false_alarms_per_hour=0.6, measured_hours=1.66),
            {"threshold": "0.9", "false_alarms_per_hour": "0.6 (1 in 1.66 h; 95 % upper bound 2.9)"},
        ),
    ],
)
def test_describe_shows_operating_points_with_what_was_measured(
    point: OperatingPoint, shown: dict[str, str], tmp_path: Path
) -> None:
    spec = Spec(labels=Labels(("yes", "no")), classifier=Classifier(hidden_size=8, n_layers=1))
    info = ModelInfo(spec=spec, operating_points={"strict": point})
    save_checkpoint(tmp_path / "best.pt", RecognizerNet(spec), info)
    _, _, text = run("describe", tmp_path / "best.pt").stdout.partition("operating point: strict\n")
    assert dict(line.split(maxsplit=1) for line in text.partition("\n\n")[0].splitlines()) == shown


def test_describe_puts_all_values_into_one_column() -> None:
    text = describe_model("commands10")
    names = ("only", "classifier.conv2d.kernel_frames", "validation expected calibration error")
    widths = {name: [len(gap) for gap in re.findall(rf"^  {name}  +", text, re.MULTILINE)] for name in names}
    assert widths == {name: [2 + max(map(len, names)) + 2] for name in names}


def test_a_recording_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "audio.wav"
    shutil.copy(EXAMPLE, path)
    assert_one_line(run("transcribe", path, "--output", path), str(path), "give another name")
    assert path.read_bytes() == EXAMPLE.read_bytes()
