"""The kinds of errors: what a caller may catch them as, and what the extras of the package are called."""

import tomllib
from pathlib import Path

import pytest

import speechrnn
from speechrnn import config, errors
from speechrnn.decoding import open_audio
from speechrnn.errors import SpeechRnnError, missing_extra
from speechrnn.files import writing
from speechrnn.recognizer import find_model
from speechrnn.spec import Options
from tests.helpers import assert_one_line

ROOT = Path(__file__).parents[2]
KINDS = {
    errors.AudioError: ValueError,
    errors.ModelFileError: ValueError,
    errors.ConfigError: ValueError,
    errors.DataError: ValueError,
    errors.DeviceError: OSError,
    errors.OutputError: OSError,
    errors.DamagedAudioError: ValueError,
    errors.MissingAudioError: FileNotFoundError,
    errors.MissingModelError: FileNotFoundError,
    errors.MissingConfigError: FileNotFoundError,
    errors.MissingDataError: FileNotFoundError,
}


@pytest.mark.parametrize(("kind", "builtin"), KINDS.items(), ids=lambda kind: kind.__name__)
def test_a_kind_is_also_what_a_caller_would_catch_and_says_its_line(
    kind: type[SpeechRnnError], builtin: type[Exception]
) -> None:
    error = kind("talk.wav: no such file")
    assert isinstance(error, builtin)
    assert str(error) == "talk.wav: no such file"


def test_every_kind_is_in_the_table_and_in_the_tree_of_the_module() -> None:
    found = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SpeechRnnError)}
    assert found == {SpeechRnnError, *KINDS}
    assert errors.__doc__ is not None
    assert not [kind for kind in found if kind.__name__ not in errors.__doc__]


@pytest.mark.parametrize(
    "kind", ["AudioError", "ModelFileError", "ConfigError", "DataError", "DeviceError", "OutputError"]
)
def test_the_kinds_are_public(kind: str) -> None:
    assert kind in speechrnn.__all__
    assert getattr(speechrnn, kind) is getattr(errors, kind)


@pytest.mark.parametrize(
    ("what", "use"),
    [
        ("audio", lambda path: open_audio(path)),
        ("a model", lambda path: find_model(path)),
        ("a configuration", lambda path: config.load_experiment(path)),
    ],
)
def test_a_missing_file_is_a_file_not_found(what: str, use: object, tmp_path: Path) -> None:
    assert callable(use)
    with pytest.raises(FileNotFoundError) as caught:
        use(tmp_path / "nothing.there")
    assert isinstance(caught.value, SpeechRnnError), what
    assert_one_line(caught.value, "nothing.there")


def test_options_out_of_range_are_a_value_error_and_one_of_this_package() -> None:
    with pytest.raises(ValueError, match="got threshold = 2") as caught:
        Options(threshold=2)
    assert isinstance(caught.value, errors.ConfigError)


def test_a_place_that_cannot_be_written_is_named_once(tmp_path: Path) -> None:
    with pytest.raises(errors.OutputError) as caught, writing(tmp_path), writing(tmp_path / "no" / "file"):
        (tmp_path / "no" / "file").write_text("")
    assert_one_line(caught.value, f"{tmp_path / 'no' / 'file'}: cannot write there (No such file or directory)")


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("torch", "torch is not installed: pip install 'speechrnn[train]'"),
        ("onnx.helper", "onnx is not installed: pip install 'speechrnn[teach]'"),
        ("sounddevice", "sounddevice is not installed: pip install 'speechrnn[mic]'"),
        ("websockets.sync", "websockets is not installed: pip install 'speechrnn[web]'"),
        ("pocketsphinx", "pocketsphinx is not installed: pip install pocketsphinx"),
    ],
)
def test_a_missing_module_names_the_extra_that_has_it(module: str, expected: str) -> None:
    assert missing_extra(module) == expected


def test_the_extras_are_those_of_the_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in ("bulk", "mic", "ray", "teach", "train", "web"):
        packages = {line.split(">")[0].replace("-", "_") for line in extras[extra]}
        packages -= {"onnx"} if extra != "teach" else set()  # of three extras, the smallest is told
        assert {f"'speechrnn[{extra}]'" in missing_extra(package) for package in packages} == {True}
