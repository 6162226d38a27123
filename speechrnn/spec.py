"""What a model file says about itself: the spec (what it is), the options (how it decides), its provenance.

The same structures are read from configuration files, stored in checkpoints and in ONNX metadata, and checked by
the type checker. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import msgspec

from speechrnn.errors import ConfigError
from speechrnn.labels import Labels

DEFAULT_MODEL = "commands10"
"""Name of the shipped model that decides where none is named."""

_MAX_SIZE, _MAX_LAYERS = 4096, 16  # of a network
_MAX_MS = 3_600_000  # of a time in the options


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Frozen, with unknown fields forbidden: a misspelt key is an error and never a silent default."""


def check(condition: bool, message: str) -> None:
    """Raise ConfigError with the message unless the condition holds; msgspec adds where in a file it was."""
    if not condition:
        raise ConfigError(message)


def check_range(name: str, value: float, least: float, largest: float) -> None:
    """Raise ConfigError unless a value is in a range, both ends of it included; NaN is in none."""
    check(least <= value <= largest, f"expected {name} from {least} to {largest}, got {_shown(value)}")


def _shown(value: float) -> str:
    """A number in few characters; that of an integer may have thousands of digits."""
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if abs(value) < 10**15 else "a number of over 15 digits"


class _Frames(Struct, frozen=True):
    """How a waveform is cut into frames and what part of the spectrum each frame describes."""

    n_mels: int = 80
    """Mel bands, 1 to 512."""
    frame_ms: float = 30.0
    """Length of a frame in ms, `hop_ms` to 1000."""
    hop_ms: float = 10.0
    """Time in ms between the starts of two frames, above 0."""
    f_min_hz: float = 20.0
    """Lowest frequency of the mel bands in Hz, at least 0."""
    f_max_hz: float = 7600.0
    """Highest one in Hz, above `f_min_hz` and at most half the sample rate."""

    def __post_init__(self) -> None:
        check_range("n_mels", self.n_mels, 1, 512)
        check(
            0 < self.hop_ms <= self.frame_ms <= 1000,
            f"expected 0 < hop_ms <= frame_ms <= 1000, got {self.hop_ms}, {self.frame_ms}",
        )
        check(
            0 <= self.f_min_hz < self.f_max_hz,
            f"expected 0 <= f_min_hz < f_max_hz, got {self.f_min_hz:g} and {self.f_max_hz:g}",
        )

    def frame_samples(self, sample_rate_hz: int) -> int:
        """Length of a frame in samples."""
        return round(self.frame_ms * sample_rate_hz / 1000)

    def hop_samples(self, sample_rate_hz: int) -> int:
        """Samples between the starts of two frames."""
        return round(self.hop_ms * sample_rate_hz / 1000)

    def n_fft(self, sample_rate_hz: int) -> int:
        """Length of the transform, and the samples that one frame reads: the next power of two."""
        return int(2 ** (self.frame_samples(sample_rate_hz) - 1).bit_length())

    def n_frames(self, n_samples: int, sample_rate_hz: int) -> int:
        """Number of whole frames in so many samples: nothing is padded or reflected."""
        return max(0, 1 + (n_samples - self.n_fft(sample_rate_hz)) // self.hop_samples(sample_rate_hz))


class Mfcc(_Frames, frozen=True, tag_field="type", tag="mfcc"):
    """Mel-frequency cepstral coefficients (Davis and Mermelstein, 1980): the DCT of the log-mel spectrum."""

    n_coefficients: int = 40
    """Coefficients that are kept, from the 0th: 1 to `n_mels`."""
    is_cepstral: ClassVar[bool] = True
    """Whether features are the DCT of the log-mel spectrum."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            1 <= self.n_coefficients <= self.n_mels,
            f"expected 1 <= n_coefficients <= n_mels, got {self.n_coefficients} and {self.n_mels}",
        )

    @property
    def n_features(self) -> int:
        """Values per frame."""
        return self.n_coefficients


class LogMel(_Frames, frozen=True, tag_field="type", tag="log_mel"):
    """Natural logarithm of the power in each mel band."""

    is_cepstral: ClassVar[bool] = False
    """Whether features are the DCT of the log-mel spectrum."""

    @property
    def n_features(self) -> int:
        """Values per frame."""
        return self.n_mels


def _check_kernel(kernel_frames: int, stride_frames: int) -> None:
    check_range("kernel_frames", kernel_frames, 1, 1001)
    check(kernel_frames % 2 == 1, f"expected an odd kernel_frames, got {kernel_frames}")
    check(
        1 <= stride_frames <= kernel_frames,
        f"expected 1 <= stride_frames <= kernel_frames, got {stride_frames} and {kernel_frames}",
    )


class Conv(Struct, frozen=True):
    """A convolution over time in front of the recurrence, which shortens the sequence by its stride."""

    n_channels: int = 128
    """Channels of its output, 1 to 4096."""
    kernel_frames: int = 5
    """Frames that one output sees, odd, 1 to 1001."""
    stride_frames: int = 3
    """Frames between two outputs, 1 to `kernel_frames`."""

    def __post_init__(self) -> None:
        check_range("n_channels", self.n_channels, 1, _MAX_SIZE)
        _check_kernel(self.kernel_frames, self.stride_frames)


class Conv2d(Struct, frozen=True):
    """Convolutions over time and frequency in front of the recurrence, one for each number of channels.

    Each halves the bands; the first looks at `kernel_frames` and shortens the sequence by its stride.
    """

    n_channels: tuple[int, ...] = (16, 32)
    """Channels of each of 1 to 16 convolutions, each 1 to 4096."""
    kernel_frames: int = 9
    """Frames that one output of the first sees, odd, 1 to 1001."""
    stride_frames: int = 3
    """Frames between two outputs, 1 to `kernel_frames`."""

    def __post_init__(self) -> None:
        check_range("the number of convolutions in n_channels", len(self.n_channels), 1, _MAX_LAYERS)
        for n_channels in self.n_channels:
            check_range("n_channels", n_channels, 1, _MAX_SIZE)
        _check_kernel(self.kernel_frames, self.stride_frames)


class Classifier(Struct, frozen=True):
    """A recurrent classifier, with one kind of convolution before it or none."""

    cell: Literal["rnn", "lstm", "gru"] = "gru"
    """The recurrence: plain (Elman, 1990), LSTM (Hochreiter and Schmidhuber, 1997) or GRU (Cho et al., 2014)."""
    nonlinearity: Literal["tanh", "relu"] = "tanh"
    """That of the plain cell; relu with `rnn` only."""
    hidden_size: int = 128
    """Units of a layer in each direction, 1 to 4096."""
    n_layers: int = 2
    """Recurrent layers, 1 to 16."""
    bidirectional: bool = True
    """Whether a second recurrence reads the context backwards."""
    dropout: float = 0.1
    """Fraction in [0, 1) of units dropped in training."""
    pooling: Literal["last", "mean", "attention"] = "attention"
    """How states become one vector: the last, their mean, or a mean weighted by attention."""
    conv: Conv | None = None
    """A convolution over time before the recurrence; None for none."""
    conv2d: Conv2d | None = None
    """Convolutions over time and frequency before it; None for none. Not with `conv`."""

    def __post_init__(self) -> None:
        check_range("hidden_size", self.hidden_size, 1, _MAX_SIZE)
        check_range("n_layers", self.n_layers, 1, _MAX_LAYERS)
        check(0 <= self.dropout < 1, f"expected 0 <= dropout < 1, got {self.dropout}")
        check(self.conv is None or self.conv2d is None, "expected conv or conv2d, got both")
        check(
            self.cell == "rnn" or self.nonlinearity == "tanh",
            f"expected nonlinearity 'relu' with cell 'rnn' only, got it with '{self.cell}'",
        )


class Spec(Struct, frozen=True):
    """What a model is: the only authority on its audio, its features, its network and its classes."""

    labels: Labels
    """The classes."""
    features: Mfcc | LogMel = Mfcc()
    """The front-end."""
    classifier: Classifier = Classifier()
    """The network."""
    sample_rate_hz: int = 16000
    """Rate of the audio in Hz, 1000 to 192000, and at least twice `features.f_max_hz`."""
    context_ms: int = 1000
    """Length of the audio in ms that one decision looks at, 10 to 60000 and at least one frame."""

    def __post_init__(self) -> None:
        check_range("sample_rate_hz", self.sample_rate_hz, 1000, 192000)
        check_range("context_ms", self.context_ms, 10, 60000)
        nyquist_hz = self.sample_rate_hz / 2
        check(
            self.features.f_max_hz <= nyquist_hz,
            f"expected f_max_hz of at most half the sample rate, {nyquist_hz:g}, got {self.features.f_max_hz:g}",
        )
        check(
            self.features.hop_samples(self.sample_rate_hz) >= 1,
            f"expected hop_ms of at least one sample, got {self.features.hop_ms:g}",
        )
        n_frames = self.features.n_frames(self.context_samples, self.sample_rate_hz)
        check(
            1 <= n_frames <= 20000,
            f"expected a context of 1 to 20000 frames, got {n_frames} of context_ms = {self.context_ms}",
        )

    @property
    def context_samples(self) -> int:
        """Length of the audio that one decision looks at."""
        return self.context_ms * self.sample_rate_hz // 1000


class Options(Struct, frozen=True):
    """How posteriors become detections.

    A keyword fires when the mean of its last posteriors reaches its threshold. It then stays quiet until that mean
    has fallen below `release` times the threshold and `refractory_ms` have passed.

    With `quiet_before` above 0 a keyword fires only where it is said alone: the posterior of silence must have reached
    that bound in one of the contexts that ended `quiet_from_ms` to `quiet_to_ms` before the decision, or another
    keyword have fired since then, or the stream have begun.

    Raises ConfigError for values out of range.
    """

    keywords: tuple[str, ...] = msgspec.field(default=(), name="only")
    """Keywords that may fire; all of the model if empty. `only` in model files and configurations."""
    step_ms: int = 100
    """Time between two decisions in ms, at least 10."""
    smoothing_ms: int = 300
    """Time in ms over which posteriors are averaged, at least one step."""
    threshold: float = 0.7
    """Mean posterior in (0, 1] at which a keyword fires."""
    thresholds: dict[str, float] = {}
    """Thresholds in (0, 1] of the keywords that have one of their own."""
    release: float = 0.7
    """Fraction in (0, 1] of the threshold below which the mean must fall before the keyword fires again."""
    refractory_ms: int = 500
    """Least time in ms between two detections of one keyword, at least 0."""
    lag_ms: int = 0
    """Typical time in ms from the end of a word to the rise of its posterior; subtracted from the reported end."""
    word_ms: int = 500
    """Typical length of a word in ms, above 0; the start that is reported lies this long before the end."""
    quiet_before: float = 0.0
    """Bound in [0, 1] on the posterior of silence some time before a keyword; 0 lets keywords within speech fire."""
    quiet_from_ms: int = 1100
    """Time in ms before the decision at which the first context that may be silence ended, above 0."""
    quiet_to_ms: int = 600
    """Time in ms before the decision at which the last such context ended, above 0 and at most `quiet_from_ms`."""

    def __post_init__(self) -> None:
        check_range("step_ms", self.step_ms, 10, _MAX_MS)
        check(
            self.step_ms <= self.smoothing_ms <= _MAX_MS,
            f"expected smoothing_ms of at least one step ({self.step_ms}), got {self.smoothing_ms}",
        )
        for name, value in {"threshold": self.threshold, **self.thresholds}.items():
            check(0 < value <= 1, f"expected a threshold above 0 and at most 1, got {name} = {value:g}")
        check(0 < self.release <= 1, f"expected 0 < release <= 1, got {self.release}")
        for name, least in {"refractory_ms": 0, "lag_ms": -_MAX_MS, "word_ms": 1, "quiet_from_ms": 1}.items():
            check_range(name, getattr(self, name), least, _MAX_MS)
        check(0 <= self.quiet_before <= 1, f"expected 0 <= quiet_before <= 1, got {self.quiet_before:g}")
        check(
            0 < self.quiet_to_ms <= self.quiet_from_ms,
            f"expected 0 < quiet_to_ms <= quiet_from_ms, got {self.quiet_to_ms} and {self.quiet_from_ms}",
        )

    def with_choice(
        self,
        *,
        threshold: float | None = None,
        thresholds: Mapping[str, float] | None = None,
        keywords: Iterable[str] | None = None,
        step_ms: int | None = None,
        in_speech: bool = False,
    ) -> Options:
        """These options with what a caller chose; what is None stays.

        A common threshold replaces the keywords' own, too; `thresholds` of this call are added to what is
        left. A step that is longer than the smoothing lengthens it to one step. With `in_speech` keywords need
        not be said alone. Raises ConfigError for values out of range.
        """
        step_ms = self.step_ms if step_ms is None else step_ms
        own = self.thresholds if threshold is None else {}
        return msgspec.structs.replace(
            self,
            keywords=self.keywords if keywords is None else tuple(keywords),
            step_ms=step_ms,
            smoothing_ms=max(step_ms, self.smoothing_ms),
            threshold=self.threshold if threshold is None else threshold,
            thresholds={**own, **(thresholds or {})},
            quiet_before=0.0 if in_speech else self.quiet_before,
        )

    def threshold_of(self, keyword: str) -> float:
        """The threshold of a keyword: its own, or else that of all."""
        return self.thresholds.get(keyword, self.threshold)

    def check_labels(self, labels: Labels) -> None:
        """Raise ConfigError if these options name a word that is no keyword, or want silence of a model without it."""
        unknown = sorted({*self.thresholds, *self.keywords} - set(labels.keywords))
        check(not unknown, f"{', '.join(unknown)}: no keyword of this model; expected {', '.join(labels.keywords)}")
        check(
            labels.silence or not self.quiet_before,
            f"expected quiet_before = 0 for a model without a class for silence, got {self.quiet_before:g}",
        )


class OperatingPoint(Struct, frozen=True):
    """A named choice of options, and what it was measured to give when it was calibrated.

    Its thresholds replace those of the options, the others only where they are given. What was not measured is None.
    """

    threshold: float
    """Mean posterior in (0, 1] at which a keyword fires."""
    thresholds: dict[str, float] = {}
    """Thresholds in (0, 1] of the keywords that have one of their own."""
    smoothing_ms: int | None = None
    """As in `Options`; None leaves it."""
    release: float | None = None
    """As in `Options`; None leaves it."""
    refractory_ms: int | None = None
    """As in `Options`; None leaves it."""
    false_alarms_per_hour: float | None = None
    """False alarms per hour of running speech."""
    misses: float | None = None
    """Fraction in [0, 1] of the spoken keywords that was missed."""
    measured_hours: float | None = None
    """Length of that running speech in hours."""
    n_false_alarms: int | None = None
    """False alarms counted in it."""
    false_alarms_per_hour_bound: float | None = None
    """The 95 % upper bound of `false_alarms_per_hour` (Garwood, 1936)."""
    n_keywords: int | None = None
    """Spoken keywords that misses were counted among."""
    measured: str | None = None
    """Date of the measurement, ISO 8601."""

    def applied_to(self, options: Options) -> Options:
        """The options at this point. Raises ConfigError if they contradict each other."""
        given = {name: getattr(self, name) for name in ("smoothing_ms", "release", "refractory_ms")}
        changes = {name: value for name, value in given.items() if value is not None}
        chosen = options.with_choice(threshold=self.threshold, thresholds=self.thresholds)
        return msgspec.structs.replace(chosen, **changes)


class Provenance(Struct, frozen=True):
    """Where a model comes from; shown by `describe`, read by nothing else."""

    created: str = ""
    """Date of the training, ISO 8601."""
    speechrnn_version: str = ""
    """Version of this package that trained it."""
    config: dict[str, Any] = {}
    """The configuration of the run."""
    data: dict[str, int] = {}
    """Number of training clips by class and source."""
    scores: dict[str, float] = {}
    """What was measured, by name."""


class ModelInfo(Struct, frozen=True):
    """Everything that a model file carries besides its weights.

    Raises ConfigError for options, also those of an operating point, that do not fit the labels and the context.
    """

    spec: Spec
    """What the model is."""
    options: Options = Options()
    """How it decides unless told otherwise."""
    operating_points: dict[str, OperatingPoint] = {}
    """Its calibrated choices of options, by name."""
    provenance: Provenance = Provenance()
    """Where it comes from."""
    format: Literal[1] = 1
    """Counts incompatible changes of model files."""

    def __post_init__(self) -> None:
        step_ms, context_ms = self.options.step_ms, self.spec.context_ms
        check(step_ms <= context_ms, f"expected a step_ms of at most context_ms, {context_ms}, got {step_ms}")
        for operating_point in (None, *self.operating_points):
            self.options_at(operating_point).check_labels(self.spec.labels)

    def with_scores(self, scores: Mapping[str, float]) -> ModelInfo:
        """The same with further scores."""
        provenance = msgspec.structs.replace(self.provenance, scores={**self.provenance.scores, **scores})
        return msgspec.structs.replace(self, provenance=provenance)

    def options_at(self, operating_point: str | None) -> Options:
        """The options of a named operating point, or those of the model for None.

        Raises ConfigError if the model has none of this name.
        """
        if operating_point is None:
            return self.options
        known = ", ".join(self.operating_points) or "none"
        check(
            operating_point in self.operating_points,
            f"{operating_point}: no operating point of this model, which has: {known}",
        )
        return self.operating_points[operating_point].applied_to(self.options)
