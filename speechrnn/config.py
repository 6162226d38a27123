"""How a run is done: one experiment per TOML file. Needs no torch; inference never reads it."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Iterable
from functools import reduce
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from speechrnn.errors import ConfigError, MissingConfigError, first_line
from speechrnn.spec import Options, Spec, Struct, check, check_range

Range = tuple[float, float]
TRAINING_RATE_HZ = 16000
_MAX_CLIPS = 10**6  # of one word
_MAX_STEPS = 10**6
_MAX_LEARNING_RATE = 10**6
_MAX_DB = 200
_MAX_PATH = 1000  # characters
UnknownSource = Literal[
    "command",
    "word",
    "aligned",
    "tts",
    "natural",
    "confusable",
    "speech",
    "hard_negative",
    "splice",
    "reversed",
    "part",
]


class Weighted(Struct, frozen=True):
    """A source of unknown contexts."""

    weight: float = 0.0
    """Its part in the mixture of unknown, relative to the other weights; at least 0, and 0 leaves it out."""

    def __post_init__(self) -> None:
        check_range("weight", self.weight, 0, 10**9)
        for name in ("n_per_word", "n_per_keyword"):
            check_range(name, getattr(self, name, 0), 0, _MAX_CLIPS)


class AlignedWords(Weighted, frozen=True):
    """Single words cut from running speech."""

    list: str = ""
    """CSV file of the words and their times, below `data.dir`; empty for none. Whatever the weight, running speech
    leaves out where it has a keyword, a word held out, a homophone of either, or a word like one held out."""
    n_per_word: int = 20
    """At most so many clips of one word, at least 0."""


class TtsWords(Weighted, frozen=True):
    """Common English words, synthesised."""

    n_per_word: int = 0
    """Clips of each word, at least 0."""


class Confusables(Weighted, frozen=True):
    """Pseudo-words one or two phonemes from a keyword, synthesised."""

    n_per_keyword: int = 0
    """Pseudo-words of each keyword, a clip of each, at least 0."""


class HardNegatives(Weighted, frozen=True):
    """Stretches of running speech in which an earlier model raised a false alarm."""

    list: str = ""
    """CSV file of the false alarms, below `data.dir`; empty for none."""


class Unknown(Struct, frozen=True):
    """What the unknown class is made of: a fraction of every epoch, and one line a source, each with its weight.

    A source without clips is passed over. Contexts of `splice`, `reversed` and `part` are made of other clips.
    """

    fraction: float = 0.1
    """Of all contexts of an epoch, in [0, 1)."""
    command: Weighted = Weighted(1.0)
    """Words of Speech Commands that are no keywords."""
    word: Weighted = Weighted(1.0)
    """Words in the folders of `data.words`."""
    aligned: AlignedWords = AlignedWords()
    """Single words cut from running speech."""
    tts: TtsWords = TtsWords()
    """Synthesised words."""
    natural: Weighted = Weighted()
    """Words in the folders of `data.natural_words`."""
    confusable: Confusables = Confusables()
    """Pseudo-words that are nearly a keyword."""
    speech: Weighted = Weighted(1.0)
    """Contexts of running speech."""
    hard_negative: HardNegatives = HardNegatives()
    """False alarms of an earlier model."""
    splice: Weighted = Weighted()
    """The start of one word with the end of another."""
    reversed: Weighted = Weighted()
    """Words backwards."""
    part: Weighted = Weighted()
    """Keywords of which the larger part is missing."""

    def __post_init__(self) -> None:
        check(0 <= self.fraction < 1, f"expected 0 <= fraction < 1, got {self.fraction}")
        check(bool(self.weights()), "expected a weight above 0 of at least one source")

    def weights(self) -> dict[UnknownSource, float]:
        """The weights above 0, by source."""
        weights: dict[UnknownSource, float] = {name: getattr(self, name).weight for name in get_args(UnknownSource)}
        return {name: weight for name, weight in weights.items() if weight}


class Data(Struct, frozen=True):
    """Where the audio lies, and what an epoch is made of.

    An epoch holds as many keyword contexts as there are keyword clips, of each keyword the same number; unknown and
    silence are fractions of the whole. All paths start from `dir`. A speaker of running speech is the name of the file
    up to its first "-" or "_".
    """

    dir: str = "data"
    """The folder that all other paths start from."""
    commands: str = "SpeechCommands/speech_commands_v0.02"
    """Speech Commands as it is unpacked."""
    words: tuple[str, ...] = ()
    """Folders of further words to train on, laid out as WORD/*.wav."""
    words_validation: tuple[str, ...] = ()
    """Folders of further words to validate on, laid out as WORD/*.wav."""
    natural_words: tuple[str, ...] = ()
    """Folders of words in natural synthetic voices, laid out as WORD/*.wav, keywords among them."""
    natural_fraction: float = 0.0
    """Of the contexts of each keyword, in [0, 1): those in natural voices."""
    speech: tuple[str, ...] = ()
    """Folders of running speech."""
    speech_validation_fraction: float = 0.0
    """Of the speakers of running speech, in [0, 1): kept from training, so that false alarms can be counted there."""
    noise: tuple[str, ...] = ()
    """Folders of noise recordings: silence is cut from them, and noise is added to words."""
    rooms: tuple[str, ...] = ()
    """Folders of room impulse responses."""
    tts: str = "tts"
    """The folder that synthesised clips are made in."""
    n_tts_per_keyword: int = 0
    """Synthesised clips of each keyword, at least 0."""
    channel_transfer_rate: float = 0.0
    """Of the synthesised clips and aligned words, in [0, 1]: these get the channel of a speaker of Speech Commands."""
    packed: str = "packed"
    """The folder of the packed file."""
    held_out: tuple[str, ...] = ()
    """Open-set words, no keywords: never trained on, and marked in validation, so that their rejection is measured."""
    held_out_like: str = ""
    """Regular expression of words that are like those held out; whole words that match are not trained on, either."""
    unknown: Unknown = Unknown()
    """What the unknown class is made of."""
    silence_fraction: float = 0.1
    """Silence, as a fraction of all contexts of an epoch, in [0, 1)."""

    def __post_init__(self) -> None:
        check_range("n_tts_per_keyword", self.n_tts_per_keyword, 0, _MAX_CLIPS)
        _check_paths(self)
        _check_pattern(self.held_out_like)
        fraction = self.speech_validation_fraction
        check(0 <= fraction < 1, f"expected 0 <= speech_validation_fraction < 1, got {fraction}")
        check(
            0 <= self.channel_transfer_rate <= 1,
            f"expected 0 <= channel_transfer_rate <= 1, got {self.channel_transfer_rate}",
        )
        check(0 <= self.natural_fraction < 1, f"expected 0 <= natural_fraction < 1, got {self.natural_fraction}")
        fractions = self.unknown.fraction, self.silence_fraction
        check(
            self.silence_fraction >= 0 and sum(fractions) < 1,
            f"expected silence_fraction of at least 0 and, with unknown.fraction, below 1, got {fractions[1]} and "
            f"{fractions[0]}",
        )

    def without_lists(self) -> Data:
        """The same audio without what lists of aligned words and false alarms make of it."""
        replace = msgspec.structs.replace
        aligned, hard_negative = replace(self.unknown.aligned, list=""), replace(self.unknown.hard_negative, list="")
        return replace(self, unknown=replace(self.unknown, aligned=aligned, hard_negative=hard_negative))


def _check_paths(data: Data) -> None:
    """Raise ConfigError for a path that no file system has."""
    several = [*data.words, *data.words_validation, *data.speech, *data.noise, *data.rooms]
    lists = [data.unknown.aligned.list, data.unknown.hard_negative.list]
    for path in (data.dir, data.commands, data.tts, data.packed, *several, *lists):
        is_path = "\0" not in path and len(path) <= _MAX_PATH
        check(is_path, f"expected a path of up to {_MAX_PATH} characters, none of them null, got {path[:100]!r}")


def _check_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"expected a regular expression in held_out_like, got {error}") from None


class Augment(Struct, frozen=True):
    """How training audio is varied; every part is off at its default. Ranges [lowest, highest] are drawn uniformly."""

    shift_ms: float = 0.0
    """Largest shift of a context to either side, in ms, at least 0."""
    resample: float = 0.0
    """Largest relative change of speed and pitch to either side, in [0, 0.5)."""
    placement_rate: float = 0.0
    """Of the words, in [0, 1]: these stand anywhere in the context."""
    truncation_rate: float = 0.0
    """Of the words, in [0, 1]: these lie mostly outside the context, and count as unknown."""
    gain_db: Range = (0.0, 0.0)
    """Gain of contexts with speech, in dB."""
    silence_gain_db: Range = (0.0, 0.0)
    """Gain of silence, in dB."""
    noise_rate: float = 0.0
    """Of the contexts with speech, in [0, 1]: noise is added to these."""
    noise_snr_db: Range = (0.0, 30.0)
    """Power of the speech frames over that of the added noise, in dB; see `speechrnn.audio.speech_power`."""
    room_rate: float = 0.0
    """Of the contexts with speech, in [0, 1]: these are convolved with the response of a room."""
    mixup_rate: float = 0.0
    """Of the contexts, in [0, 1]: these and their labels are mixed with another of the batch (Zhang et al., 2018)."""
    filter_db: float = 0.0
    """Largest amplitude, in dB, of the cosines over the mel scale that the filter of a context is made of."""
    n_time_masks: int = 0
    """Stretches of frames that are masked in each context (SpecAugment, Park et al., 2019), at least 0."""
    time_mask_frames: int = 25
    """Longest of them, in frames, at least 0."""
    n_feature_masks: int = 0
    """Bands of features that are masked in each context, at least 0."""
    feature_mask_size: int = 7
    """Widest of them, in features, at least 0."""

    def __post_init__(self) -> None:
        for name in ("placement_rate", "truncation_rate", "noise_rate", "room_rate", "mixup_rate"):
            check(0 <= getattr(self, name) <= 1, f"expected 0 <= {name} <= 1, got {getattr(self, name)}")
        check_range("shift_ms", self.shift_ms, 0, 10000)
        check_range("filter_db", self.filter_db, 0, _MAX_DB)
        for name in ("n_time_masks", "time_mask_frames", "n_feature_masks", "feature_mask_size"):
            check_range(name, getattr(self, name), 0, 1000)
        check(self.placement_rate + self.truncation_rate <= 1, "expected placement_rate + truncation_rate of at most 1")
        check(0 <= self.resample < 0.5, f"expected 0 <= resample < 0.5, got {self.resample}")
        for name in ("gain_db", "silence_gain_db", "noise_snr_db"):
            low, high = getattr(self, name)
            check(
                -_MAX_DB <= low <= high <= _MAX_DB,
                f"expected {name} as [lowest, highest] within {_MAX_DB} dB, got [{low:g}, {high:g}]",
            )


class Train(Struct, frozen=True):
    """The optimisation: AdamW, linear warm-up, cosine decay to zero, an exponential moving average of the weights."""

    epochs: int = 30
    """Passes through the training data, at least 1."""
    batch_size: int = 128
    """Contexts of a step, over all processes, at least 1."""
    learning_rate: float = 1e-3
    """The highest one, after the warm-up, above 0."""
    weight_decay: float = 0.01
    """Decoupled decay of the weights of products, at least 0; biases and normalisations do not decay."""
    warmup_epochs: float = 1.0
    """Length of the warm-up, in epochs, at least 0 and below `epochs`."""
    clip_norm: float = 1.0
    """Largest norm of the gradient, above 0; a larger one is scaled down to it."""
    label_smoothing: float = 0.1
    """Of each label, in [0, 1): spread evenly over all classes."""
    ema_decay: float = 0.999
    """Decay of the moving average per step, in [0, 1)."""
    teachers: tuple[str, ...] = ()
    """Checkpoints of earlier runs, as paths from the working directory, to distil from (Hinton et al., 2015)."""
    teacher_weight: float = 0.7
    """Of each label, in [0, 1]: the mean posteriors of the teachers, where there are any."""
    initial: str = ""
    """Checkpoint of a network of the same shape to start from, as a path from the working directory; empty for none."""
    word_weight: float = 0.0
    """Weight of a second loss, at least 0: the embedding learns to tell many words apart (Lee et al., 2023, arXiv
    2309.00647). What it needs beside the network is left out of the model."""
    min_clips_per_word: int = 8
    """Clips that a word must have to be one of those, at least 1."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Of the products in the network; weights are always float32."""
    seed: int = 1
    """Of every random number of a run."""

    def __post_init__(self) -> None:
        check_range("epochs", self.epochs, 1, _MAX_STEPS)
        check_range("batch_size", self.batch_size, 1, _MAX_STEPS)
        check_range("seed", self.seed, 0, 2**63 - 1)
        check(
            0 < self.learning_rate <= _MAX_LEARNING_RATE,
            f"expected learning_rate above 0 and at most {_MAX_LEARNING_RATE}, got {self.learning_rate}",
        )
        check(0 <= self.weight_decay < math.inf, f"expected weight_decay of at least 0, got {self.weight_decay}")
        check(
            0 <= self.warmup_epochs < self.epochs,
            f"expected 0 <= warmup_epochs < epochs ({self.epochs}), got {self.warmup_epochs}",
        )
        check(self.clip_norm > 0, f"expected clip_norm above 0, got {self.clip_norm}")
        check(0 <= self.label_smoothing < 1, f"expected 0 <= label_smoothing < 1, got {self.label_smoothing}")
        check(0 <= self.teacher_weight <= 1, f"expected 0 <= teacher_weight <= 1, got {self.teacher_weight}")
        check(0 <= self.word_weight < math.inf, f"expected word_weight of at least 0, got {self.word_weight}")
        check(self.min_clips_per_word >= 1, f"expected min_clips_per_word of at least 1, got {self.min_clips_per_word}")
        check(0 <= self.ema_decay < 1, f"expected 0 <= ema_decay < 1, got {self.ema_decay}")


class Calibration(Struct, frozen=True):
    """Targets of calibration: false alarms per hour of running speech at each operating point."""

    strict: float = 0.1
    """Those of the strictest point, above 0."""
    balanced: float = 0.5
    """Those of the point by which a model decides unless told otherwise, at least `strict`."""
    sensitive: float = 5.0
    """Those of the point with fewest misses, at least `balanced`."""

    def __post_init__(self) -> None:
        rates = [self.strict, self.balanced, self.sensitive]
        check(
            0 < rates[0] <= rates[1] <= rates[2] < math.inf,
            f"expected 0 < strict <= balanced <= sensitive, got {', '.join(f'{rate:g}' for rate in rates)}",
        )


class Experiment(Struct, frozen=True):
    """A whole run: what is made, from what, how, and which operating points are aimed at."""

    model: Spec
    """What is made."""
    data: Data = Data()
    """What it is trained on."""
    augment: Augment = Augment()
    """How contexts are augmented."""
    train: Train = Train()
    """The schedule."""
    options: Options = Options()
    """How the model decides until calibration chooses its thresholds."""
    calibration: Calibration = Calibration()
    """The operating points that are aimed at."""

    def __post_init__(self) -> None:
        labels, context_ms = self.model.labels, self.model.context_ms
        unexpected = ", ".join(word for word in self.options.keywords if word not in labels.keywords)
        check(not unexpected, f"expected keywords of the model in options.only, got {unexpected}")
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

    A file can extend another, `extends = "base.toml"`, given from its own folder: what it says itself replaces values
    of the other, table by table. `data_dir`, where given, replaces `data.dir`.

    Raises ConfigError naming the file and the path of what is wrong.
    """
    layers = _read_layers(path)
    tree = reduce(_merged, (tree for _, tree in layers))
    for override in overrides:
        _apply_override(tree, override)
    try:
        experiment = msgspec.convert(tree, Experiment)
    except (msgspec.ValidationError, OverflowError, RecursionError) as error:
        bases = ", ".join(str(base) for base, _ in layers[:-1])
        place = f"{path}, which extends {bases}" if bases else str(path)
        raise ConfigError(f"{place}: {_explain(first_line(error), tree)}") from None
    if data_dir is None:
        return experiment
    return msgspec.structs.replace(experiment, data=msgspec.structs.replace(experiment.data, dir=data_dir))


def _read_layers(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """A file and those that it extends, the last of these first, each with its tables."""
    layers: list[tuple[Path, dict[str, Any]]] = []
    while True:
        if any(path.resolve() == other.resolve() for other, _ in layers):
            raise ConfigError(f"{layers[0][0]}: extends itself, by way of {layers[-1][0]}; remove one `extends`")
        tree = _read_toml(path)
        layers.append((path, tree))
        base = tree.pop("extends", None)
        if base is None:
            return layers[::-1]
        if not isinstance(base, str) or "\0" in base or len(base) > _MAX_PATH:
            raise ConfigError(
                f"{path}: expected the path of a configuration in `extends`, got {repr(base)[:_MAX_PATH]}"
            )
        path = path.parent / base


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        kind = MissingConfigError if isinstance(error, FileNotFoundError) else ConfigError
        raise kind(f"{path}: cannot read the configuration ({error.strerror}); give a .toml file") from None
    except (ValueError, RecursionError) as error:  # of its syntax, its encoding, its depth, the length of its numbers
        raise ConfigError(f"{path}: expected TOML, got something else: {first_line(error)}") from None


def _merged(base: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    """A table with the values of another in place of its own; a table of another `type` replaces the whole."""
    if "type" in tree and tree["type"] != base.get("type"):
        return tree
    merged = dict(base)
    for key, value in tree.items():
        both_tables = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merged(base[key], value) if both_tables else value
    return merged


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
        raise ConfigError(f"--set {override[:_MAX_PATH]}: expected section.key=value, such as train.epochs=2")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"--set {path}: expected a value as in TOML, got something else: {first_line(error)}"
        ) from None
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {override[:_MAX_PATH]}: {section} is a value, not a section")
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
