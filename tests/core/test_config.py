"""Experiments from TOML: every shipped one loads and builds, and every mistake gets a message that names it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tomli_w

from speechrnn.config import Augment, Calibration, Data, Experiment, Train, load_experiment, to_tree
from speechrnn.errors import ConfigError
from speechrnn.labels import Labels
from speechrnn.model.network import RecognizerNet
from speechrnn.spec import Classifier, Conv, LogMel, Options, Spec
from tests.conftest import CONFIGS

MINIMAL = '[model.labels]\nkeywords = ["yes", "no"]\n'
CONFIG_FILES = sorted(path for path in CONFIGS.rglob("*.toml") if path.name != "base.toml")


def write(folder: Path, text: str) -> Path:
    path = folder / "experiment.toml"
    path.write_text(text, encoding="utf-8")
    return path


def error_of(path: Path, overrides: Sequence[str] = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        load_experiment(path, overrides)
    message = str(caught.value)
    assert "\n" not in message.strip()
    return message


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda path: path.stem)
def test_every_configuration_loads_and_its_model_is_built(path: Path) -> None:
    spec = load_experiment(path).model
    net = RecognizerNet(spec)
    assert net.classifier.output.out_features == len(spec.labels.names)
    assert net.norm.mean.shape == (spec.features.n_features,)


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda path: path.stem)
def test_every_configuration_survives_a_round_trip(path: Path, tmp_path: Path) -> None:
    experiment = load_experiment(path)
    assert load_experiment(write(tmp_path, tomli_w.dumps(to_tree(experiment)))) == experiment


@pytest.mark.parametrize("name", ["v1-12", "v2-12", "v2-35"])
def test_the_tasks_have_the_recipe_of_commands10_as_far_as_it_needs_no_other_audio(name: str) -> None:
    recipe, task = (load_experiment(CONFIGS / f"{one}.toml") for one in ("commands10", name))
    not_needed: dict[str, Any] = {"room_rate": 0.0}
    if not task.model.labels.unknown:
        not_needed["truncation_rate"] = 0.0
    assert task.augment == msgspec.structs.replace(recipe.augment, **not_needed)
    assert (task.train, task.model.classifier) == (recipe.train, recipe.model.classifier)
    assert task.model.features == recipe.model.features
    assert task.data.held_out == ()  # words of the task's own
    if task.model.labels.unknown:
        elsewhere = {"word", "aligned", "tts", "natural", "confusable", "speech", "hard_negative"}
        of_recipe, of_task = (
            {source: weight for source, weight in one.data.unknown.weights().items() if source not in elsewhere}
            for one in (recipe, task)
        )
        assert of_task == of_recipe


def test_a_value_of_every_kind_survives_a_round_trip(tmp_path: Path) -> None:
    experiment = Experiment(
        model=Spec(
            labels=Labels(("on", "off"), silence=False),
            features=LogMel(n_mels=40, f_min_hz=60.5),
            classifier=Classifier(cell="lstm", bidirectional=False, conv=Conv(n_channels=8, kernel_frames=7)),
        ),
        data=Data(dir='a "quoted" folder \\ é', words=("a", "b")),
        augment=Augment(gain_db=(-3.0, 2.5), n_time_masks=2),
        train=Train(epochs=3, precision="bf16-mixed"),
        options=Options(smoothing_ms=400),
        calibration=Calibration(strict=0.05),
    )
    assert load_experiment(write(tmp_path, tomli_w.dumps(to_tree(experiment)))) == experiment


def test_what_is_left_out_takes_its_default(tmp_path: Path) -> None:
    experiment = load_experiment(write(tmp_path, MINIMAL))
    assert experiment == Experiment(model=Spec(labels=Labels(("yes", "no"))))
    assert experiment.model.labels.names == ("yes", "no", "unknown", "silence")


@pytest.mark.parametrize(
    ("override", "path", "expected"),
    [
        ("train.epochs=7", "train.epochs", 7),
        ("train.learning_rate=3e-4", "train.learning_rate", 3e-4),
        ("train.learning_rate=1", "train.learning_rate", 1.0),
        ("train.precision=bf16-mixed", "train.precision", "bf16-mixed"),
        ('data.dir="with space"', "data.dir", "with space"),
        ("data.dir=/bare/path", "data.dir", "/bare/path"),
        ("data.dir=a=b", "data.dir", "a=b"),
        ("model.classifier.bidirectional=false", "model.classifier.bidirectional", False),
        ('model.labels.keywords=["on", "off"]', "model.labels.keywords", ("on", "off")),
        ("augment.gain_db=[-6, 3.5]", "augment.gain_db", (-6.0, 3.5)),
        ("calibration.strict=0.05", "calibration.strict", 0.05),
        ("model.classifier.conv.kernel_frames=7", "model.classifier.conv.kernel_frames", 7),
        (" train.seed = 9", "train.seed", 9),
    ],
)
def test_overrides_replace_one_value(tmp_path: Path, override: str, path: str, expected: object) -> None:
    value: Any = load_experiment(write(tmp_path, MINIMAL), [override])
    for name in path.split("."):
        value = getattr(value, name)
    assert value == expected
    assert type(value) is type(expected)


def test_the_last_override_wins_over_the_others_and_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "[train]\nepochs = 2\n")
    assert load_experiment(path, ["train.epochs=3", "train.epochs=4"]).train.epochs == 4


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.epochs", ["--set train.epochs", "section.key=value"]),
        ("epochs=3", ["--set epochs=3", "section.key=value"]),
        ("train.=3", ["--set train.=3", "section.key=value"]),
        ("model.labels.keywords.x=3", ["--set model.labels.keywords.x=3", "keywords is a value"]),
        ("train.epoch=3", ["unknown key `epoch` in [train]", "`epochs`"]),
        ("train.epochs=many", ["Expected `int`, got `str`", "$.train.epochs"]),
    ],
)
def test_wrong_overrides_are_explained(tmp_path: Path, override: str, parts: list[str]) -> None:
    message = error_of(write(tmp_path, MINIMAL), [override])
    assert [part for part in parts if part not in message] == []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[trian]\nepochs = 2\n", ["unknown key `trian` in [the top level]", "did you mean `train`?"]),
        ("[train]\nlearning_rat = 1e-3\n", ["unknown key `learning_rat` in [train]", "did you mean `learning_rate`?"]),
        ("[model.classifier]\nhiden_size = 3\n", ["`hiden_size` in [model.classifier]", "`hidden_size`"]),
        ("[model.classifier.conv]\nstride = 3\n", ["`stride` in [model.classifier.conv]", "`stride_frames`"]),
        (
            '[model.features]\ntype = "mfcc"\nn_coeficients = 3\n',
            ["`n_coeficients` in [model.features]", "`n_coefficients`"],
        ),
        (
            '[model.features]\ntype = "log_mel"\nn_coefficients = 3\n',
            ["`n_coefficients` in [model.features]", "expected one of: n_mels, frame_ms"],
        ),
        ("[calibration]\nbalance = 0.5\n", ["`balance` in [calibration]", "did you mean `balanced`?"]),
        ("[operating_points.strict]\nthreshold = 0.9\n", ["unknown key `operating_points`"]),
        ("[augment]\nzzz = 1\n", ["unknown key `zzz` in [augment]", "expected one of: shift_ms, resample"]),
    ],
)
def test_an_unknown_key_is_named_with_its_file_place_and_the_right_key(
    tmp_path: Path, text: str, parts: list[str]
) -> None:
    path = write(tmp_path, MINIMAL + text)
    message = error_of(path)
    assert message.startswith(f"{path}: ")
    assert [part for part in parts if part not in message] == []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('[train]\nepochs = "ten"\n', ["Expected `int`, got `str`", "$.train.epochs"]),
        ("[train]\nepochs = 2.5\n", ["Expected `int`, got `float`", "$.train.epochs"]),
        ("[model.classifier]\nbidirectional = 1\n", ["Expected `bool`, got `int`", "$.model.classifier.bidirectional"]),
        ('[model.classifier]\ncell = "gur"\n', ["Invalid enum value 'gur'", "$.model.classifier.cell"]),
        ('[model.features]\ntype = "plp"\n', ["Invalid value 'plp'", "$.model.features.type"]),
        ("[model.features]\nn_mels = 40\n", ["missing required field `type`", "$.model.features"]),
        ("[augment]\ngain_db = -3.0\n", ["Expected `array`, got `float`", "$.augment.gain_db"]),
        ("[augment]\ngain_db = [1.0]\n", ["Expected `array` of length 2", "$.augment.gain_db"]),
        ('[data]\nwords = "folder"\n', ["Expected `array`, got `str`", "$.data.words"]),
        ("[options]\nthresholds = { yes = true }\n", ["Expected `float`, got `bool`", "$.options.thresholds"]),
    ],
)
def test_a_wrong_type_is_named_with_its_place_and_what_was_expected(
    tmp_path: Path, text: str, parts: list[str]
) -> None:
    message = error_of(write(tmp_path, MINIMAL + text))
    assert [part for part in parts if part not in message] == []


CONTRADICTIONS = [
    ("model.features", 'type = "mfcc"\nframe_ms = inf', "hop_ms <= frame_ms <= 1000, got 10.0, inf"),
    ("model.features", 'type = "mfcc"\nhop_ms = 31', "0 < hop_ms <= frame_ms <= 1000, got 31.0, 30.0"),
    ("model", 'features = { type = "mfcc", hop_ms = 0.01 }', "hop_ms of at least one sample, got 0.01"),
    ("model.features", 'type = "mfcc"\nn_mels = 20\nn_coefficients = 21', "n_coefficients <= n_mels, got 21 and 20"),
    ("model.features", 'type = "log_mel"\nn_mels = 0', "n_mels from 1 to 512, got 0"),
    ("model.features", 'type = "log_mel"\nf_min_hz = 9000', "f_min_hz < f_max_hz, got 9000 and 7600"),
    ("model", 'features = { type = "mfcc", f_max_hz = 9000 }', "f_max_hz of at most half the sample rate, 8000"),
    ("model", "sample_rate_hz = 0", "sample_rate_hz from 1000 to 192000, got 0"),
    ("model", "context_ms = 20", "a context of 1 to 20000 frames, got 0 of context_ms = 20"),
    ("model.classifier", "hidden_size = 0", "hidden_size from 1 to 4096, got 0"),
    ("model.classifier", "n_layers = 0", "n_layers from 1 to 16, got 0"),
    ("model.classifier", "dropout = 1.0", "0 <= dropout < 1, got 1.0"),
    ("model.classifier", 'cell = "gru"\nnonlinearity = "relu"', "'relu' with cell 'rnn' only, got it with 'gru'"),
    ("model.classifier.conv", "kernel_frames = 4", "an odd kernel_frames, got 4"),
    ("model.classifier.conv", "n_channels = 0", "n_channels from 1 to 4096, got 0"),
    ("model.classifier.conv", "kernel_frames = 3\nstride_frames = 4", "stride_frames <= kernel_frames, got 4 and 3"),
    ("data", "unknown = { fraction = 0.5 }\nsilence_fraction = 0.5", "with unknown.fraction, below 1, got 0.5 and 0.5"),
    ("data", "silence_fraction = -0.1", "silence_fraction of at least 0"),
    ("data", "silence_fraction = nan", "silence_fraction of at least 0"),
    ("data", 'held_out_like = "of("', "expected a regular expression in held_out_like, got missing )"),
    ("data.unknown", "fraction = -0.1", "0 <= fraction < 1, got -0.1"),
    ("data.unknown", "fraction = nan", "0 <= fraction < 1, got nan"),
    ("data.unknown", "command.weight = 0\nword.weight = 0\nspeech.weight = 0", "a weight above 0 of at least one"),
    ("data", "n_tts_per_keyword = -1", "n_tts_per_keyword from 0 to 1000000, got -1"),
    ("data.unknown.tts", "n_per_word = -1", "n_per_word from 0 to 1000000, got -1"),
    ("data.unknown.confusable", "n_per_keyword = -1", "n_per_keyword from 0 to 1000000, got -1"),
    ("data", "channel_transfer_rate = 1.5", "0 <= channel_transfer_rate <= 1"),
    ("data.unknown.word", "weight = -1.0", "weight from 0 to 1000000000, got -1"),
    ("data.unknown.word", "weight = inf", "weight from 0 to 1000000000, got inf"),
    ("augment", "placement_rate = 1.5", "0 <= placement_rate <= 1, got 1.5"),
    ("augment", "placement_rate = 0.6\ntruncation_rate = 0.6", "placement_rate + truncation_rate of at most 1"),
    ("augment", "resample = 0.5", "0 <= resample < 0.5, got 0.5"),
    ("augment", "room_rate = nan", "0 <= room_rate <= 1, got nan"),
    ("augment", "mixup_rate = -1.0", "0 <= mixup_rate <= 1, got -1.0"),
    ("augment", "shift_ms = -5.0", "shift_ms from 0 to 10000, got -5"),
    ("augment", "filter_db = -1.0", "filter_db from 0 to 200, got -1"),
    ("augment", "n_time_masks = -1", "n_time_masks from 0 to 1000, got -1"),
    ("augment", "noise_snr_db = [nan, 3.0]", "noise_snr_db as [lowest, highest] within 200 dB, got [nan, 3]"),
    ("augment", "gain_db = [-inf, 3.0]", "gain_db as [lowest, highest] within 200 dB, got [-inf, 3]"),
    ("augment", "gain_db = [3.0, -3.0]", "gain_db as [lowest, highest] within 200 dB, got [3, -3]"),
    ("train", "epochs = 0", "epochs from 1 to 1000000, got 0"),
    ("train", "batch_size = 0", "batch_size from 1 to 1000000, got 0"),
    ("train", "learning_rate = 0.0", "learning_rate above 0 and at most 1000000, got 0.0"),
    ("train", "learning_rate = nan", "learning_rate above 0 and at most 1000000, got nan"),
    ("train", "learning_rate = inf", "learning_rate above 0 and at most 1000000, got inf"),
    ("train", "weight_decay = -0.1", "weight_decay of at least 0, got -0.1"),
    ("train", "epochs = 3\nwarmup_epochs = 3", "warmup_epochs < epochs (3), got 3.0"),
    ("train", "clip_norm = 0.0", "clip_norm above 0, got 0.0"),
    ("train", "label_smoothing = 1.0", "label_smoothing < 1, got 1.0"),
    ("train", "teacher_weight = 1.5", "0 <= teacher_weight <= 1, got 1.5"),
    ("model.classifier.conv2d", "n_channels = []", "number of convolutions in n_channels from 1 to 16, got 0"),
    ("model.classifier.conv2d", "kernel_frames = 4", "an odd kernel_frames, got 4"),
    ("model.classifier", "conv = {}\nconv2d = {}", "expected conv or conv2d, got both"),
    ("train", "ema_decay = 1.0", "ema_decay < 1, got 1.0"),
    ("options", "step_ms = 5", "step_ms from 10 to 3600000, got 5"),
    ("options", "step_ms = 100\nsmoothing_ms = 50", "smoothing_ms of at least one step (100), got 50"),
    ("options", "threshold = 0.0", "above 0 and at most 1, got threshold = 0"),
    ("options", "thresholds = { no = 1.5 }", "above 0 and at most 1, got no = 1.5"),
    ("options", "release = 0.0", "0 < release <= 1, got 0.0"),
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = " + "[" * 3000 + "]" * 3000, "expected TOML"),
        ("x = " + "9" * 4301, "expected TOML"),
        ("[train]\nepochs = 0x" + "f" * 5000, "epochs from 1 to 1000000, got a number of over 15 digits"),
        ("[train]\nlearning_rate = 1" + "0" * 400, "$.train.learning_rate"),
        ("[model]\nsample_rate_hz = " + "9" * 400, "sample_rate_hz from 1000 to 192000"),
        ("[model]\ncontext_ms = 1000000000", "context_ms from 10 to 60000"),
        ('[model.features]\ntype = "mfcc"\nframe_ms = 1e308', "frame_ms <= 1000"),
        ("[augment]\ngain_db = [0.0, 1e308]", "gain_db as [lowest, highest] within 200 dB"),
        ('[data]\npacked = "a\\u0000b"', "none of them null, got"),
        ('[data]\nheld_out_like = "' + "(" * 5000 + ")" * 5000 + '"', "a regular expression in held_out_like"),
    ],
    ids=lambda text: text[:30],
)
def test_numbers_and_nesting_beyond_all_bounds_are_refused(tmp_path: Path, text: str, expected: str) -> None:
    message = error_of(write(tmp_path, text + "\n" + MINIMAL if text.startswith("x") else MINIMAL + text + "\n"))
    assert expected in message
    assert len(message) < 1000


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epochs=" + "9" * 4301, "--set train.epochs: expected a value as in TOML"),
        ("train.epochs=" + "[" * 3000 + "]" * 3000, "--set train.epochs: expected a value as in TOML"),
        ("model.features.frame_ms=1e308", "missing required field `type`"),
    ],
    ids=lambda text: text[:30],
)
def test_overrides_beyond_all_bounds_are_refused(tmp_path: Path, override: str, expected: str) -> None:
    assert expected in error_of(write(tmp_path, MINIMAL), [override])


@pytest.mark.parametrize("keyword", ["", " yes", "turn\non", "a\0", "\ud800", "y" * 101, "a\u2028b"])
def test_a_keyword_that_no_line_can_hold_is_refused(keyword: str) -> None:
    with pytest.raises(ConfigError, match="expected keywords without line breaks"):
        Labels((keyword, "no"))


def test_keywords_of_any_script_and_with_spaces_are_taken() -> None:
    keywords = ("turn on", "はい", "نه\u200cخیر", "हाँ", "nö, never", "{label}", "🙂")
    assert Labels(keywords).names == (*keywords, "unknown", "silence")


@pytest.mark.parametrize(("section", "text", "expected"), CONTRADICTIONS)
def test_numbers_that_contradict_each_other_are_refused_with_their_place(
    tmp_path: Path, section: str, text: str, expected: str
) -> None:
    message = error_of(write(tmp_path, f"{MINIMAL}[{section}]\n{text}\n"))
    assert expected in message
    assert f"$.{section}`" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[options]\nonly = ["yes", "maybe"]', "keywords of the model in options.only, got maybe"),
        ("[options]\nthresholds = { yes = 0.5 }", "no options.thresholds: `speechrnn calibrate` measures them"),
        ("[calibration]\nstrict = 1.0", "0 < strict <= balanced <= sensitive, got 1, 0.5, 5"),
        ("[calibration]\nstrict = 0.0", "0 < strict <= balanced <= sensitive, got 0, 0.5, 5"),
        (
            "[options]\nstep_ms = 1100\nsmoothing_ms = 1100",
            "options.step_ms of at most model.context_ms, 1000, got 1100",
        ),
        ('[data]\nheld_out = ["bed", "no"]', "words that are no keywords in data.held_out, got no"),
        ("[model]\nsample_rate_hz = 44100", "model.sample_rate_hz = 16000 for training, got 44100"),
        (
            "[model.labels]\nunknown = false\n[augment]\ntruncation_rate = 0.1",
            "truncation_rate = 0 without an unknown class",
        ),
    ],
)
def test_sections_that_contradict_each_other_are_refused(tmp_path: Path, text: str, expected: str) -> None:
    section, _, rest = text.partition("\n")
    merged = f"{MINIMAL}{rest}" if section == "[model.labels]" else f"{text}\n{MINIMAL}"
    assert expected in error_of(write(tmp_path, merged))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ('keywords = ["yes", "no", "yes"]', "each keyword once, got more of: yes"),
        ('keywords = ["yes", "unknown"]', "got the reserved name: unknown"),
        ('keywords = ["_background_noise_"]', "got the reserved name: _background_noise_"),
        ("keywords = []", "at least one keyword"),
        ('keywords = ["yes"]\nunknown = false\nsilence = false', "at least two classes"),
    ],
)
def test_labels_that_cannot_be_told_apart_are_refused(tmp_path: Path, labels: str, expected: str) -> None:
    message = error_of(write(tmp_path, f"[model.labels]\n{labels}\n"))
    assert expected in message
    assert "$.model.labels" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[train\nepochs = 2", "expected TOML"),
        (b"epochs = 2\nepochs = 3", "expected TOML"),
        (b"\xff\xfe\x00", "expected TOML"),
        (b"", "missing required field `model`"),
    ],
)
def test_a_file_that_is_no_experiment_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    message = error_of(path)
    assert message.startswith(f"{path}: ")
    assert expected in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.toml"
    assert error_of(path) == f"{path}: cannot read the configuration (No such file or directory); give a .toml file"


def test_words_that_other_formats_read_as_booleans_stay_words(tmp_path: Path) -> None:
    experiment = load_experiment(write(tmp_path, '[model.labels]\nkeywords = ["yes", "no", "on", "off"]\n'))
    assert experiment.model.labels.keywords == ("yes", "no", "on", "off")


def test_a_value_that_toml_cannot_hold_is_left_out() -> None:
    experiment = Experiment(model=Spec(labels=Labels(("yes", "no")), classifier=Classifier(conv=None)))
    assert "conv" not in to_tree(experiment)["model"]["classifier"]


def extending(folder: Path, name: str, base: str, text: str = "") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'extends = "{base}"\n{text}', encoding="utf-8")
    return path


def test_a_configuration_extends_another_table_by_table(tmp_path: Path) -> None:
    write(tmp_path, MINIMAL + "[train]\nepochs = 2\nseed = 3\n[augment]\ngain_db = [-3.0, 3.0]\n")
    middle = extending(tmp_path, "more/middle.toml", "../experiment.toml", "[train]\nseed = 4\nbatch_size = 8\n")
    last = extending(tmp_path, "last.toml", "more/middle.toml", "[augment]\ngain_db = [0.0, 1.0]\n")
    experiment = load_experiment(last, ["train.batch_size=9"])
    assert experiment.train == Train(epochs=2, seed=4, batch_size=9)
    assert experiment.augment == Augment(gain_db=(0.0, 1.0))
    assert load_experiment(middle).train == Train(epochs=2, seed=4, batch_size=8)
    assert "extends" not in to_tree(experiment)


def test_a_table_of_another_type_takes_the_place_of_the_whole(tmp_path: Path) -> None:
    write(tmp_path, MINIMAL + '[model.features]\ntype = "mfcc"\nn_coefficients = 13\n')
    path = extending(tmp_path, "other.toml", "experiment.toml", '[model.features]\ntype = "log_mel"\nn_mels = 24\n')
    assert load_experiment(path).model.features == LogMel(n_mels=24)


@pytest.mark.parametrize("base", ["other.toml", "experiment.toml"])
def test_a_configuration_that_extends_itself_is_refused(tmp_path: Path, base: str) -> None:
    extending(tmp_path, "experiment.toml", "other.toml", MINIMAL)
    path = extending(tmp_path, "other.toml", base)
    assert f"{path}: extends itself" in error_of(path)


def test_errors_of_a_configuration_that_extends_another_name_both(tmp_path: Path) -> None:
    base = write(tmp_path, MINIMAL + "[train]\nepoch = 2\n")
    path = extending(tmp_path, "other.toml", "experiment.toml")
    assert error_of(path).startswith(f"{path}, which extends {base}: unknown key `epoch` in [train]")
    assert error_of(extending(tmp_path, "lost.toml", "none.toml")).startswith(f"{tmp_path / 'none.toml'}: cannot read")
    path.write_text("extends = 3\n")
    assert error_of(path) == f"{path}: expected the path of a configuration in `extends`, got 3"
