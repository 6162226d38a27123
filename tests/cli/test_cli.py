"""The command line: what it prints, where it writes, and one clear line for every kind of bad input."""

import csv
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soundfile

from speechrnn.cli.describe import describe_model
from speechrnn.model.network import save_checkpoint
from speechrnn.spec import OperatingPoint
from tests.helpers import SmallModel

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "audio" / "commands.wav"
WORDS = ["yes", "no", "up", "down", "left", "right", "stop", "go"]
COMMAND = [sys.executable, "-c", "from speechrnn.cli.main import main; main()"]


def run(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def write_wav(path: Path, samples: np.ndarray, rate_hz: int = 16000, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, samples, rate_hz, subtype=subtype)
    return path


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


def test_a_recording_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "audio.wav"
    shutil.copy(EXAMPLE, path)
    commands: list[list[str | Path]] = [
        ["transcribe", path, "--output", path],
        ["listen", "--source", path, "--save", path],
    ]
    for arguments in commands:
        assert_one_line(run(*arguments), "and the recording; give another name")
    assert path.read_bytes() == EXAMPLE.read_bytes()


def test_without_a_verb_it_shows_its_help() -> None:
    result = run()
    assert (result.returncode, result.stderr) == (0, "")
    assert "transcribe" in result.stdout


@pytest.mark.parametrize(("threshold", "expected"), [("1", []), ("yes=1", WORDS[1:])])
def test_thresholds_can_be_raised_for_all_or_one(threshold: str, expected: list[str]) -> None:
    assert labels(run("transcribe", EXAMPLE, "--format", "json", "--threshold", threshold).stdout) == expected


@pytest.mark.parametrize(
    ("rate_hz", "channels", "subtype"), [(8000, 1, "PCM_16"), (16000, 8, "PCM_24"), (192000, 1, "FLOAT")]
)
def test_any_rate_and_channel_count_is_transcribed(tmp_path: Path, rate_hz: int, channels: int, subtype: str) -> None:
    import soxr

    samples, source_hz = soundfile.read(EXAMPLE, dtype="float32")
    resampled = soxr.resample(samples, source_hz, rate_hz)
    path = write_wav(tmp_path / "audio.wav", np.stack([resampled] * channels, axis=1), rate_hz, subtype)
    found = labels(run("transcribe", path, "--format", "json").stdout)
    assert len(set(WORDS) & set(found)) >= 5  # 8 kHz leaves out half of the spectrum


def test_50_ms_of_audio_is_enough_to_be_transcribed_and_classified(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "short.wav", np.random.default_rng(0).normal(0, 0.01, 800))
    assert labels(run("transcribe", path, "--format", "json").stdout) == []
    assert run("classify", path).returncode == 0


def test_classify_gives_every_probability(tmp_path: Path) -> None:
    samples, rate_hz = soundfile.read(EXAMPLE)
    path = write_wav(tmp_path / "yes.wav", samples[int(0.8 * rate_hz) : int(1.8 * rate_hz)])
    document = json.loads(run("classify", path, "--format", "json").stdout)
    assert document["label"] == "yes"
    assert set(document["probabilities"]) == {*WORDS, "unknown", "silence"}
    assert sum(document["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    many = json.loads(run("classify", path, path, "--format", "json").stdout)
    assert [item["label"] for item in many] == ["yes", "yes"]


def test_describe_shows_the_shipped_model() -> None:
    output = run("describe", "commands8").stdout
    for expected in ("lstm", "yes no up down left right stop go", "threshold", "validation accuracy"):
        assert expected in output


def test_one_bad_file_among_many_leaves_the_others_done(tmp_path: Path) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_text("not audio")
    result = run("transcribe", bad, EXAMPLE, tmp_path / "missing.wav", "--format", "jsonl")
    assert result.returncode == 2
    assert labels(result.stdout) == WORDS
    assert len(result.stderr.splitlines()) == 3
    assert "2 of 3" in result.stderr


def missing(folder: Path) -> Path:
    return folder / "missing.wav"


def no_detections(folder: Path) -> Path:
    return folder / "words.json"


def empty(folder: Path) -> Path:
    path = folder / "empty.wav"
    path.touch()
    return path


def text(folder: Path) -> Path:
    path = folder / "text.wav"
    path.write_text("these are words, not sound\n" * 50)
    return path


def truncated(folder: Path) -> Path:
    path = folder / "truncated.wav"
    path.write_bytes(EXAMPLE.read_bytes()[:50_000])
    return path


def no_samples(folder: Path) -> Path:
    return write_wav(folder / "none.wav", np.zeros(0))


def not_a_number(folder: Path) -> Path:
    samples = np.zeros(16000, dtype=np.float32)
    samples[8000] = np.nan
    return write_wav(folder / "nan.wav", samples, subtype="FLOAT")


def no_audio_in_folder(folder: Path) -> Path:
    (folder / "notes.txt").write_text("nothing to hear")
    return folder


def a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.wav")
    return folder / "pipe.wav"


BAD_AUDIO = [
    (a_pipe, "listen --source -"),
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


def assert_one_line(result: subprocess.CompletedProcess[str], *expected: str) -> None:
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert all(part in result.stderr for part in expected), result.stderr
    assert "Traceback" not in result.stderr


def pickled_code(folder: Path) -> Path:
    class Payload:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(folder / "owned"),)

    path = folder / "model.pt"
    path.write_bytes(pickle.dumps(Payload()))
    return path


def half_a_model(folder: Path) -> Path:
    path = folder / "model.onnx"
    content = (ROOT / "speechrnn" / "pretrained" / "commands8.onnx").read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder: "commands9", "commands8"),
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


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("train.epoch=2", ["train", "epochs"]),
        ("train.epochs=many", ["int", "train.epochs"]),
        ("model.features.hop_ms=40", ["hop_ms <= frame_ms", "model.features"]),
        ("epochs=2", ["section.key=value"]),
    ],
)
def test_bad_settings_are_one_clear_line(setting: str, expected: list[str]) -> None:
    assert_one_line(run("train", "configs/commands8.toml", "--set", setting), *expected)


@pytest.mark.parametrize(
    "arguments",
    [
        ["transcribe"],
        ["transcribe", EXAMPLE, "--format", "morse"],
        ["transcribe", EXAMPLE, "--threshold", "loud"],
        ["transcribe", EXAMPLE, EXAMPLE, "--threshold", "maybe=0.5"],
        ["score", EXAMPLE, EXAMPLE, "--threshold", "maybe=0.5"],
        ["transcribe", EXAMPLE, "--threshold", "yes="],
        ["transcribe", EXAMPLE, "--threshold", "=0.5"],
        ["transcribe", EXAMPLE, "--threshold", "nan"],
        ["transcribe", EXAMPLE, "--threshold", "yes=2"],
        ["transcribe", b"no\xf6thing.wav"],
        ["listen", "--source", EXAMPLE, "--keywords", ","],
        ["listen", "--source", EXAMPLE, "--device", "1"],
        ["listen", "--source", EXAMPLE, "--rate", "8000"],
        ["listen", "--source", EXAMPLE, "--duration", "nan"],
        ["listen", "--source", "-", "--rate", "100000000000"],
        ["listen", "--realtime"],
        ["listen", "--run", "echo {word}"],
        ["export", "model.onnx", "again.onnx"],
        ["export", "best.pt", "model.pt"],
        ["evaluate", "commands8", "examples/audio", "--json", "examples/audio"],
        ["transcribe", EXAMPLE, "--treshold", "0.5"],
        ["listn"],
        ["train", "configs/none.toml"],
        ["prepare", "configs/commands8.toml", "--data", "no/such/folder"],
        ["evaluate", "commands8", "no/such/folder"],
        ["evaluate", "commands8", EXAMPLE],
        ["evaluate", "commands8", "examples/audio", "--noise", "no/such/folder"],
        ["evaluate", "commands8", "examples/audio", "--report", "/proc/none/report.html"],
        ["evaluate", "commands8", "examples/audio", "--plots", "README.md"],
    ],
    ids=str,
)
def test_bad_arguments_are_one_clear_line(arguments: list[str | Path | bytes]) -> None:
    assert_one_line(run(*(os.fsdecode(argument) for argument in arguments)))


@pytest.mark.parametrize("name", ["curve", "curve.xyz", "curve.json"])
def test_a_curve_that_is_no_picture_is_refused_before_the_work(name: str, tmp_path: Path) -> None:
    result = run("score", EXAMPLE, "--curve", tmp_path / name)
    assert_one_line(result, str(tmp_path / name), ".png")
    assert (result.stdout, list(tmp_path.iterdir())) == ("", [])


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "commands8", "examples/audio", "--plots"],
        ["evaluate", "commands8", "examples/audio", "--report"],
        ["score", "examples/audio", "--curve"],
    ],
    ids=" ".join,
)
def test_pictures_without_matplotlib_are_one_clear_line(arguments: list[str], tmp_path: Path) -> None:
    code = "import sys; sys.modules['matplotlib'] = None; from speechrnn.cli.main import main; main()"
    command = [sys.executable, "-c", code, *arguments, str(tmp_path / "new")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert_one_line(result, "matplotlib", "pip install 'speechrnn[train]'")
    assert list(tmp_path.iterdir()) == []


def test_a_full_output_device_is_one_clear_line() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    assert_one_line(run("transcribe", EXAMPLE, "--format", "csv", "--output", full), "/dev/full", "space")


@pytest.mark.parametrize("target", ["read-only/words.csv", "file/words.csv"])
def test_an_output_place_that_cannot_be_written_is_one_clear_line(target: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "read-only"
    folder.mkdir()
    folder.chmod(0o500)
    place = Path("/proc/1/words.csv") if target.startswith("read-only") and os.geteuid() == 0 else tmp_path / target
    assert_one_line(run("transcribe", EXAMPLE, "--format", "csv", "--output", place), str(place))


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = " ".join(["python", "-c", "'from speechrnn.cli.main import main; main()'"])
    shell = f"{shutil.which('env')} PYTHONPATH={ROOT} {command} transcribe {'examples/audio ' * 3}| head -n 1"
    shell = shell.replace("python", sys.executable, 1)
    result = subprocess.run(shell, shell=True, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.stdout.startswith("examples/audio/commands.wav")
    assert "Traceback" not in result.stderr


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


def test_score_counts_what_was_found_and_writes_score_and_curve(tmp_path: Path) -> None:
    table, curve = tmp_path / "score.json", tmp_path / "curve.png"
    result = run("score", "examples/audio", "--json", table, "--curve", curve)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("3 recordings")
    score = json.loads(table.read_text())
    assert (score["n_spoken"], score["n_hits"], score["n_false_alarms"]) == (18, 18, 0)
    assert 0 < score["delay_p50_ms"] < 400
    assert curve.read_bytes().startswith(b"\x89PNG")
    points = json.loads(curve.with_suffix(".json").read_text())
    assert points["spotter"]["as set"]["miss_rate"] == 0
    assert len(points["detector"]) > 50


def test_score_takes_detections_and_gives_what_it_gives_for_the_recording(tmp_path: Path) -> None:
    words = tmp_path / "words.json"
    assert run("transcribe", EXAMPLE, "--format", "json", "--output", words).returncode == 0
    scores = []
    for audio in (EXAMPLE, words):
        run("score", audio, "--rule", "tensorflow", "--json", tmp_path / "score.json")
        scores.append(json.loads((tmp_path / "score.json").read_text()))
    assert {key for key in scores[0] if scores[0][key] != scores[1][key]} <= {"hours"}  # the length is rounded
    assert scores[0]["rule"] == "tensorflow"
    assert_one_line(run("score", words, "--curve", tmp_path / "curve.png"), "--curve", "got detections")


@pytest.mark.parametrize(
    "option", [("--threshold", "0.99"), ("--threshold", "banana=0.9"), ("--operating-point", "strict")]
)
def test_score_refuses_options_that_change_nothing_in_detections(option: tuple[str, str], tmp_path: Path) -> None:
    words = tmp_path / "words.json"
    words.write_text('{"audio": "examples/audio/commands.wav", "duration_s": 13.2, "detections": []}')
    assert_one_line(run("score", words, *option), " ".join(option), "detections")
    of_recordings = run("score", words, EXAMPLE, *option)
    assert of_recordings.returncode == (2 if "banana" in option[1] else 0)


def test_score_refuses_detections_of_no_keyword(tmp_path: Path) -> None:
    words = tmp_path / "words.jsonl"
    found = {"label": "banana", "start_s": 1.0, "end_s": 1.4, "score": 0.9}
    words.write_text(json.dumps({"audio": str(EXAMPLE), "duration_s": 13.2, "detections": [found]}))
    assert_one_line(run("score", words, EXAMPLE), str(words), "banana: no keyword")


@pytest.mark.parametrize(
    ("make", "expected"),
    [(missing, "no such file"), (empty, "empty file"), (not_a_number, "NaN"), (no_detections, "cannot read")],
)
def test_score_goes_on_after_what_cannot_be_read(make: Callable[[Path], Path], expected: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    if make is not_a_number:  # which is only known once it is heard
        path.with_suffix(".txt").touch()
    result = run("score", path, EXAMPLE)
    assert (result.returncode, result.stdout.splitlines()[0][:12]) == (2, "1 recordings")
    first, last = result.stderr.splitlines()
    assert f"{path}: " in first and expected in first
    assert "1 of 2 inputs failed" in last


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--json", "talk.wav"], ["talk.wav", "--json", "an input"]),
        (["--json", "other/../talk.labels.txt"], ["talk.labels.txt", "--json", "the truth"]),
        (["--json", "linked"], ["linked", "--json", "an input"]),
        (["--json", "model.onnx", "--model", "model.onnx"], ["model.onnx", "--json", "the model"]),
        (["--json", "score.json", "--curve", "score.png"], ["score.json", "--json", "the JSON beside --curve"]),
        (["--json", "new/score.png", "--curve", "new/score.png"], ["score.png", "--json", "--curve"]),
        (["--truth", "truth.json", "--curve", "truth.png"], ["truth.json", "the JSON beside --curve", "the truth"]),
    ],
)
def test_score_writes_over_nothing_that_it_reads_or_writes(
    arguments: list[str], expected: list[str], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    shutil.copy(EXAMPLE, tmp_path / "talk.wav")
    shutil.copy(EXAMPLE.with_suffix(".labels.txt"), tmp_path / "talk.labels.txt")
    shutil.copy(ROOT / "speechrnn" / "pretrained" / "commands8.onnx", tmp_path / "model.onnx")
    (tmp_path / "truth.json").write_text('{"detections": []}')
    (tmp_path / "linked").symlink_to("talk.wav")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    result = run("score", "talk.wav", *arguments, cwd=tmp_path)
    assert_one_line(result, *expected, "give another name")
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_detections_are_not_held_against_themselves(tmp_path: Path) -> None:
    shutil.copy(EXAMPLE, tmp_path / "talk.wav")
    (tmp_path / "talk.json").write_text('{"audio": "talk.wav", "duration_s": 13.2, "detections": []}')
    assert_one_line(run("score", "talk.json", cwd=tmp_path), "talk.json", "its own truth", "--truth")


def test_detections_that_are_scored_are_not_written_over(tmp_path: Path) -> None:
    words = tmp_path / "words.json"
    words.write_text(json.dumps({"audio": str(EXAMPLE), "duration_s": 13.2, "detections": []}))
    before = words.read_bytes()
    assert_one_line(run("score", words, "--json", words), "--json", "an input")
    assert words.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--json", "new", "--report", "new"], ["--json", "--report"]),
        (["--json", "new", "--plots", "new"], ["--json", "--plots"]),
        (["--report", "clips/yes/0.wav"], ["--report", "a clip"]),
        (["--json", "hum.wav", "--noise", "hum.wav"], ["--json", "noise"]),
    ],
)
def test_evaluate_writes_over_nothing_that_it_reads_or_writes(
    arguments: list[str], expected: list[str], tmp_path: Path
) -> None:
    (tmp_path / "clips" / "yes").mkdir(parents=True)
    files = [write_wav(tmp_path / name, np.full(16000, 0.1)) for name in ("clips/yes/0.wav", "hum.wav")]
    before = [path.read_bytes() for path in files]
    assert_one_line(run("evaluate", "commands8", "clips", *arguments, cwd=tmp_path), *expected, "give another name")
    assert [path.read_bytes() for path in files] == before
    assert not (tmp_path / "new").exists()


def test_a_device_may_be_named_twice() -> None:
    result = run("evaluate", "commands8", "no/such/folder", "--json", os.devnull, "--report", os.devnull)
    assert_one_line(result, "expected a folder laid out as LABEL/*.wav")


@pytest.mark.parametrize("arguments", [["--truth", "none.txt"], ["--truth", "docs"], ["--truth", "pyproject.toml"]])
def test_score_needs_the_truth(arguments: list[str]) -> None:
    assert_one_line(run("score", EXAMPLE, *arguments), "expected")


@pytest.mark.parametrize("verb", ["transcribe", "score", "listen"])
def test_an_operating_point_is_chosen_by_name(verb: str, small_model: SmallModel) -> None:
    audio = ["--source", EXAMPLE] if verb == "listen" else [EXAMPLE]
    for name, code in (("strict", 0), ("lax", 2)):
        result = run(verb, *audio, "--model", small_model.onnx, "--operating-point", name)
        assert result.returncode == code, result.stderr
    assert_one_line(result, "lax", "which has: strict")


def test_describe_shows_operating_points_with_their_rates(small_model: SmallModel) -> None:
    _, _, text = run("describe", small_model.onnx).stdout.partition("operating point: strict")
    rows = dict(line.split(maxsplit=1) for line in text.partition("\n\n")[0].splitlines() if line)
    assert rows == {"threshold": "0.9", "release": "0.5", "false_alarms_per_hour": "0.25", "misses": "12.5 %"}


@pytest.mark.parametrize(("rate", "counted"), [(0.0, "0 (0 in 1.66 h)"), (0.6, "0.6 (1 in 1.66 h)")])
def test_describe_shows_false_alarms_with_what_was_measured(
    rate: float, counted: str, small_model: SmallModel, tmp_path: Path
) -> None:
    point = OperatingPoint(threshold=0.9, false_alarms_per_hour=rate, measured_hours=1.66)
    info = msgspec.structs.replace(small_model.info, operating_points={"strict": point})
    save_checkpoint(tmp_path / "best.pt", small_model.net, info)
    _, _, text = describe_model(tmp_path / "best.pt").partition("operating point: strict\n")
    rows = dict(line.split(maxsplit=1) for line in text.partition("\n\n")[0].splitlines())
    assert rows == {"threshold": "0.9", "false_alarms_per_hour": counted}


def test_describe_puts_all_values_into_one_column() -> None:
    text = describe_model("commands8")
    names = ("only", "classifier.conv2d.kernel_frames", "validation expected calibration error")
    widths = {name: [len(gap) for gap in re.findall(rf"^  {name}  +", text, re.MULTILINE)] for name in names}
    assert widths == {name: [2 + max(map(len, names)) + 2] for name in names}
