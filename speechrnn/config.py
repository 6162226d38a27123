"""How a run is done: one experiment per TOML file. Needs no torch; inference never reads it."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec

from speechrnn.errors import ConfigError
from speechrnn.spec import Options, Spec, Struct, check

Range = tuple[float, float]
TRAINING_RATE_HZ = 16000
UnknownSource = Literal[
    "command",
    "word",
    "aligned",
    "tts",
    "confusable",
    "speech",
    "hard_negative",
    "splice",
    "reversed",
    "part",
    "gap",
    "onset",
]


class Data(Struct, frozen=True):
    """Where the audio lies, all of it below `dir`, and how an epoch is mixed.

    An epoch holds as many keyword contexts as there are keyword clips, of each keyword the same number, and unknown and
    silence in these shares of the whole. `unknown_mix` weighs what unknown is made of: other words of Speech Commands
    (`command`), of other folders (`word`), single ones in running speech (`aligned`), which the file `aligned_words` lists,
    and of a synthesiser (`tts`), which also says what is nearly a keyword (`confusable`); running `speech`; those
    stretches of it in which an earlier model heard a keyword, listed in the file `hard_negatives`; and what is made of all
    words: the start of one with the end of another (`splice`), `reversed` ones, keywords of which the larger `part` is
    missing, the `gap` between the end of one and the start of another, and running speech that begins or ends
    (`onset`). Words in `held_out` are never trained on, so that validation has unknown words that are new; nor are some
    `speech_validation_fraction` of the speakers of running speech, so that false alarms can be counted there. A speaker is
    the name of the file up to its first "-" or "_". Running speech leaves out where `aligned_words` lists a keyword, a word
    in `held_out`, or "on", "off", "back" or "forward", which stand for all words that nobody foresaw.
    espeak-ng makes `n_tts_per_word` clips of each of a list of English words, `n_tts_per_keyword` of each
    keyword, and says `n_confusables_per_keyword` words that are nearly it. A `channel_transfer_rate` of the words that are
    synthesised or cut from running speech get the microphone and the room of a speaker of Speech Commands.
    """

    dir: str = "data"
    commands: str = "SpeechCommands/speech_commands_v0.02"
    words: tuple[str, ...] = ()
    words_validation: tuple[str, ...] = ()
    speech: tuple[str, ...] = ()
    speech_validation_fraction: float = 0.0
    noise: tuple[str, ...] = ()
    rooms: tuple[str, ...] = ()
    tts: str = "tts"
    n_tts_per_word: int = 0
    n_tts_per_keyword: int = 0
    n_confusables_per_keyword: int = 0
    aligned_words: str = ""
    hard_negatives: str = ""
    channel_transfer_rate: float = 0.0
    packed: str = "packed"
    held_out: tuple[str, ...] = ()
    held_out_like: str = ""
    unknown_fraction: float = 0.1
    unknown_mix: dict[UnknownSource, float] = msgspec.field(
        default_factory=lambda: {"command": 1.0, "word": 1.0, "speech": 1.0}
    )
    silence_fraction: float = 0.1

    def __post_init__(self) -> None:
        for name in ("n_tts_per_word", "n_tts_per_keyword", "n_confusables_per_keyword"):
            check(getattr(self, name) >= 0, f"expected {name} of at least 0, got {getattr(self, name)}")
        try:
            re.compile(self.held_out_like)
        except re.error as error:
            raise ValueError(f"expected a regular expression in held_out_like, got {error}") from None
        share = self.speech_validation_fraction
        check(0 <= share < 1, f"expected 0 <= speech_validation_fraction < 1, got {share}")
        check(
            0 <= self.channel_transfer_rate <= 1,
            f"expected 0 <= channel_transfer_rate <= 1, got {self.channel_transfer_rate}",
        )
        weights = self.unknown_mix.values()
        check(
            all(0 <= weight < math.inf for weight in weights) and sum(weights) > 0,
            f"expected weights of at least 0 in unknown_mix, and one above, got {self.unknown_mix}",
        )
        check(
            min(self.unknown_fraction, self.silence_fraction) >= 0
            and self.unknown_fraction + self.silence_fraction < 1,
            f"expected shares of at least 0 that sum to less than 1, got {self.unknown_fraction} and {self.silence_fraction}",
        )


class Augment(Struct, frozen=True):
    """How training audio is varied; every part is off at 0.

    `shift_ms` and `resample` are largest deviations, `*_share` are shares of the batch, ranges are drawn uniformly.
    `placement_rate` of the words stand anywhere in the context; `truncation_rate` lie mostly outside it and count as unknown.
    `filter_db` is the largest amplitude of the cosines that the filter of a context is made of.
    `mixup_rate` of the contexts are mixed with another of the batch, and so are their labels.
    """

    shift_ms: float = 0.0
    resample: float = 0.0
    placement_rate: float = 0.0
    truncation_rate: float = 0.0
    gain_db: Range = (0.0, 0.0)
    silence_gain_db: Range = (0.0, 0.0)
    noise_rate: float = 0.0
    noise_snr_db: Range = (0.0, 30.0)
    room_rate: float = 0.0
    mixup_rate: float = 0.0
    filter_db: float = 0.0
    n_time_masks: int = 0
    time_mask_frames: int = 25
    n_feature_masks: int = 0
    feature_mask_size: int = 7

    def __post_init__(self) -> None:
        for name in ("placement_rate", "truncation_rate", "noise_rate", "room_rate", "mixup_rate"):
            check(0 <= getattr(self, name) <= 1, f"expected 0 <= {name} <= 1, got {getattr(self, name)}")
        for name in (
            "shift_ms",
            "filter_db",
            "n_time_masks",
            "time_mask_frames",
            "n_feature_masks",
            "feature_mask_size",
        ):
            check(0 <= getattr(self, name) < math.inf, f"expected {name} of at least 0, got {getattr(self, name)}")
        check(self.placement_rate + self.truncation_rate <= 1, "expected placement_rate + truncation_rate of at most 1")
        check(0 <= self.resample < 0.5, f"expected 0 <= resample < 0.5, got {self.resample}")
        for name in ("gain_db", "silence_gain_db", "noise_snr_db"):
            low, high = getattr(self, name)
            check(-math.inf < low <= high < math.inf, f"expected {name} as [lowest, highest], got [{low}, {high}]")


class Train(Struct, frozen=True):
    """The optimisation: AdamW, linear warm-up, cosine decay to zero, an exponential moving average of the weights.

    `teachers` are checkpoints of earlier runs, as paths from the working directory; the mean of their posteriors makes
    up `teacher_weight` of each label.
    """

    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_epochs: float = 1.0
    clip_norm: float = 1.0
    label_smoothing: float = 0.1
    ema_decay: float = 0.999
    teachers: tuple[str, ...] = ()
    teacher_weight: float = 0.7
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    seed: int = 1

    def __post_init__(self) -> None:
        check(self.epochs >= 1, f"expected epochs of at least 1, got {self.epochs}")
        check(self.batch_size >= 1, f"expected batch_size of at least 1, got {self.batch_size}")
        check(0 < self.learning_rate < math.inf, f"expected learning_rate above 0, got {self.learning_rate}")
        check(0 <= self.weight_decay < math.inf, f"expected weight_decay of at least 0, got {self.weight_decay}")
        check(
            0 <= self.warmup_epochs < self.epochs,
            f"expected 0 <= warmup_epochs < epochs ({self.epochs}), got {self.warmup_epochs}",
        )
        check(self.clip_norm > 0, f"expected clip_norm above 0, got {self.clip_norm}")
        check(0 <= self.label_smoothing < 1, f"expected 0 <= label_smoothing < 1, got {self.label_smoothing}")
        check(0 <= self.teacher_weight <= 1, f"expected 0 <= teacher_weight <= 1, got {self.teacher_weight}")
        check(0 <= self.ema_decay < 1, f"expected 0 <= ema_decay < 1, got {self.ema_decay}")


class Calibration(Struct, frozen=True):
    """Targets of calibration: false alarms per hour of running speech at each operating point. No answers."""

    strict: float = 0.1
    balanced: float = 0.5
    sensitive: float = 5.0

    def __post_init__(self) -> None:
        rates = [self.strict, self.balanced, self.sensitive]
        check(
            0 < rates[0] <= rates[1] <= rates[2] < math.inf,
            f"expected 0 < strict <= balanced <= sensitive, got {', '.join(f'{rate:g}' for rate in rates)}",
        )


class Experiment(Struct, frozen=True):
    """A whole run: what is made, from what, how, and which operating points are aimed at.

    `options` are what a model has until it is calibrated, which chooses its thresholds.
    """

    model: Spec
    data: Data = Data()
    augment: Augment = Augment()
    train: Train = Train()
    options: Options = Options()
    calibration: Calibration = Calibration()

    def __post_init__(self) -> None:
        labels, context_ms = self.model.labels, self.model.context_ms
        strangers = ", ".join(word for word in self.options.keywords if word not in labels.keywords)
        check(not strangers, f"expected keywords of the model in options.only, got {strangers}")
        check(not self.options.thresholds, "expected no options.thresholds: `speechrnn calibrate` measures them")
        check(
            self.options.step_ms <= context_ms,
            f"expected options.step_ms of at most model.context_ms, {context_ms}, got {self.options.step_ms}",
        )
        check(
            labels.unknown or not self.augment.truncation_rate,
            f"expected augment.truncation_rate = 0 without an unknown class to put words cut off into, "
            f"got {self.augment.truncation_rate}",
        )
        check(
            self.model.sample_rate_hz == TRAINING_RATE_HZ,
            f"expected model.sample_rate_hz = {TRAINING_RATE_HZ} for training, got {self.model.sample_rate_hz}",
        )
        kept = ", ".join(word for word in self.data.held_out if word in labels.keywords)
        check(not kept, f"expected words that are no keywords in data.held_out, got {kept}")


def load_experiment(path: Path, overrides: Iterable[str] = (), *, data_dir: str | None = None) -> Experiment:
    """Read an experiment from a TOML file; each override is `section.key=value`, the value written as in TOML.

    `data_dir`, where given, takes the place of `data.dir`.

    Raises ConfigError naming the file and the path of what is wrong.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration ({error.strerror}); give a .toml file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected TOML, got something else: {error}") from None
    for override in overrides:
        _apply_override(tree, override)
    try:
        experiment = msgspec.convert(tree, Experiment)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_explain(str(error), tree)}") from None
    if data_dir is None:
        return experiment
    return msgspec.structs.replace(experiment, data=msgspec.structs.replace(experiment.data, dir=data_dir))


def to_tree(experiment: Experiment) -> dict[str, Any]:
    """An experiment as plain tables, without the values that TOML cannot hold."""
    tree: dict[str, Any] = _without_none(msgspec.to_builtins(experiment))
    return tree


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value


def _apply_override(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    *sections, key = path.strip().split(".")
    if not equals or not key or not sections:
        raise ConfigError(f"--set {override}: expected section.key=value, such as train.epochs=2")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {override}: {section} is a value, not a section")
    tree[key] = value


def _explain(message: str, tree: dict[str, Any]) -> str:
    """A validation message, with the keys that would have been right where an unknown one came."""
    _, unknown, rest = message.partition("unknown field `")
    if not unknown:
        return message
    key, _, place = rest.partition("`")
    place = place.removeprefix(" - at `$").rstrip("`").lstrip(".").replace("[...]", "")
    struct: Any = Experiment
    node: Any = tree
    for name in filter(None, place.split(".")):
        field_type = struct.__annotations__.get(name) if isinstance(struct, type) else None
        resolved = {field.name: field.type for field in msgspec.structs.fields(struct)}.get(name, field_type)
        node = node.get(name, {})
        struct = _struct_of(resolved, node)
    known = [field.name for field in msgspec.structs.fields(struct)]
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"expected one of: {', '.join(known)}"
    return f"unknown key `{key}` in [{place or 'the top level'}]; {hint}"


def _struct_of(kind: Any, node: Any) -> Any:
    """The structure among the alternatives of a type that a table is meant for."""
    options = [option for option in getattr(kind, "__args__", (kind,)) if hasattr(option, "__struct_fields__")]
    tagged = [option for option in options if option.__struct_config__.tag == node.get("type")]
    return (tagged or options)[0]
