"""A model file to a `Recognizer`: ONNX Runtime by default, torch when given a training checkpoint."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from speechrnn import hub
from speechrnn.audio import Samples
from speechrnn.errors import MissingModelError, ModelFileError, first_line, missing_extra
from speechrnn.files import write_whole
from speechrnn.spec import DEFAULT_MODEL, ModelInfo

if TYPE_CHECKING:
    import onnx
    import onnxruntime

Array = NDArray[np.float32]
_DYNAMIC_SCALE = b"DynamicQuantize"
METADATA_KEY = "speechrnn"
"""The key in ONNX metadata under which a model file carries its ModelInfo as JSON."""
_BATCH_SIZE = 32  # larger ones leave the cache and are slower
_MAX_FIRST_RUN_S = 10.0  # of one context, which takes some milliseconds
_SHIPPED = Path(__file__).parent / "pretrained"


class Recognizer:
    """A loaded model. It has no state between calls, so threads and spotters can share one.

    Takes its features, labels and context from the model file; there is nothing to configure. `path` is that file,
    None for a recognizer that was not loaded from one.
    """

    def __init__(
        self,
        info: ModelInfo,
        logits: Callable[[Samples], Array],
        path: Path | None = None,
        embeddings: Callable[[Samples], Array] | None = None,
    ) -> None:
        self.info = info
        self.path = path
        self._logits = logits
        self._embeddings = embeddings

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the posteriors."""
        return self.info.spec.labels.names

    def at(self, operating_point: str) -> Recognizer:
        """The same model, deciding as one of its operating points says. Raises ConfigError if it has none so named."""
        options = self.info.options_at(operating_point)
        info = msgspec.structs.replace(self.info, options=options)
        return Recognizer(info, self._logits, self.path, self._embeddings)

    def logits(self, samples: Samples) -> Array:
        """Class scores [B, C] of contexts [B, context_samples], float32 in [-1, 1].

        Raises ModelFileError where the network gives another number of scores, or some that are not finite.
        """
        return self.checked(self._logits(np.ascontiguousarray(samples, dtype=np.float32)), len(samples))

    def checked(self, logits: Array, n: int) -> Array:
        """What the network gave for `n` contexts, as it is, if it is a finite score of each class for each of them.

        Raises ModelFileError if not.
        """
        expected = n, len(self.labels)
        name = self.path or "the model"
        if logits.shape != expected:
            raise ModelFileError(
                f"{name}: expected scores of shape {expected}, a column for each label, got {logits.shape}; "
                "its labels are not those of its network, export it again"
            )
        if not np.isfinite(logits).all():
            raise ModelFileError(f"{name}: its network gives scores that are not finite; train it or export it again")
        return logits

    def posteriors(self, samples: Samples) -> Array:
        """Class probabilities [B, C] of contexts [B, context_samples]; each row sums to 1. Raises as `logits` does."""
        return softmax(self.logits(samples))

    def embed(self, samples: Samples) -> Array:
        """Embeddings [B, D] of contexts [B, context_samples], which the class scores are a linear function of.

        Words that the model was never trained on lie apart in them, by the cosine of the angle between two. Raises
        ModelFileError for a file that was exported before models had an embedding.
        """
        if self._embeddings is None:
            raise ModelFileError(f"{self.path}: expected a model with an embedding, got one without; export it again")
        return self._embeddings(np.ascontiguousarray(samples, dtype=np.float32))

    def classify(self, samples: Samples) -> Array:
        """Class probabilities [C] of a one-word clip [T] of any length.

        A clip shorter than a context is put into the middle of silence. Of a longer one, the context in which some
        keyword is most probable decides if that keyword wins it, else the context that is least like silence.
        """
        posteriors: Array = self.classify_all([samples])[0]
        return posteriors

    def classify_all(self, clips: Sequence[Samples]) -> Array:
        """Class probabilities [N, C] of clips [T] of any lengths, as `classify` gives each, in batches: faster."""
        contexts = [self._contexts(clip) for clip in clips]
        rows = [row for clip in contexts for row in clip]
        batches = [rows[start : start + _BATCH_SIZE] for start in range(0, len(rows), _BATCH_SIZE)]
        posteriors = np.concatenate([self.posteriors(np.stack(batch)) for batch in batches])
        ends = np.cumsum([len(clip) for clip in contexts])[:-1]
        return np.stack([self._decisive(part) for part in np.split(posteriors, ends)])

    def _contexts(self, samples: Samples) -> Samples:
        """The contexts [n, context_samples] by which a clip [T] is judged; views where it is longer than one."""
        context = self.info.spec.context_samples
        if len(samples) <= context:
            return centred(samples, context)[None]
        step = self.info.options.step_ms * self.info.spec.sample_rate_hz // 1000
        n_steps = -(-(len(samples) - context) // step)
        padded = np.pad(samples, (0, context + n_steps * step - len(samples)))
        contexts: Samples = np.lib.stride_tricks.sliding_window_view(padded, context)[::step]
        return contexts

    def _decisive(self, posteriors: Array) -> Array:
        """The row [C] that decides, of the posteriors [n, C] of a clip's contexts."""
        labels = self.info.spec.labels
        n_keywords = len(labels.keywords)
        row = posteriors[:, :n_keywords].max(axis=1).argmax()
        if posteriors[row].argmax() >= n_keywords and labels.silence:
            row = posteriors[:, -1].argmin()
        return np.asarray(posteriors[row])


def centred(samples: Samples, n_samples: int) -> Samples:
    """A clip [T] of at most `n_samples` in the middle of silence [n_samples]."""
    before = (n_samples - len(samples)) // 2
    return np.pad(samples, (before, n_samples - len(samples) - before))


def cached(recognizer: Recognizer) -> Recognizer:
    """The same recognizer, its logits memoised by the hash of the context.

    Spotters with different options decide on mostly the same contexts, until a detection makes part of one silent.
    """
    known: dict[bytes, Array] = {}

    def logits(contexts: Samples) -> Array:
        key = hashlib.blake2b(contexts.tobytes(), digest_size=16).digest()
        if key not in known:
            known[key] = recognizer.logits(contexts)
        return known[key]

    return Recognizer(recognizer.info, logits)


def shipped_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.stem for path in _SHIPPED.glob("*.onnx"))


def is_shipped(path: Path) -> bool:
    """Whether a file is one of the models that come with the package."""
    return path.parent == _SHIPPED


def find_model(model: str | Path) -> Path:
    """The file of a shipped model's name, of a path, of a model folder, or of `owner/name[@revision]` on the Hub.

    The name of a shipped model means that model, whatever lies in the working directory; ./NAME means a file there.
    Only a name with a slash that is nothing here is looked for on the Hub. Raises ModelFileError if there is none.
    """
    if str(model) in shipped_models():
        return _SHIPPED / f"{model}.onnx"
    path = Path(model)
    if path.is_dir():
        path /= hub.MODEL_FILE
    if path.is_file():
        return path
    if isinstance(model, str) and not Path(model).is_dir() and hub.is_name(model):
        return hub.fetch(model)
    raise MissingModelError(
        f"{path}: no such model; expected a .onnx or .pt file, a model folder, owner/name on the Hub, or one of the "
        f"shipped: {', '.join(shipped_models())}"
    )


def load(model: str | Path = DEFAULT_MODEL, *, operating_point: str | None = None, n_threads: int = 1) -> Recognizer:
    """Load a model, to decide as it says, or as its operating point says.

    It is given as the name of a shipped one, the path of a file or of a folder that `speechrnn export` wrote, or as
    `owner/name[@revision]` on the Hub. The latter needs `pip install 'speechrnn[hub]'`, is kept in the Hub's cache, and
    is loaded from there without a connection; nothing is ever downloaded for a name without a slash.

    The network runs once over silence, so that what it gives is known to fit what the file says of it. `n_threads` is
    for ONNX models; a checkpoint runs on the threads that torch has. Raises ModelFileError, ConfigError for an
    operating point that the model does not have.
    """
    path = find_model(model)
    recognizer = _load_checkpoint(path) if path.suffix == ".pt" else _load_onnx(path, n_threads)
    return recognizer if operating_point is None else recognizer.at(operating_point)


from_pretrained = load
"""The name that other libraries have for it."""


def _check_run(recognizer: Recognizer) -> Recognizer:
    """The same recognizer, if one context of silence gives finite scores of all its labels, else ModelFileError."""
    recognizer.logits(np.zeros((1, recognizer.info.spec.context_samples), dtype=np.float32))
    return recognizer


def _load_onnx(path: Path, n_threads: int) -> Recognizer:
    import onnxruntime

    try:
        session = open_session(path, n_threads)
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    except Exception as error:  # its exceptions have no common base of their own
        raise ModelFileError(f"{path}: damaged, or not an ONNX model ({first_line(error)})") from None
    if text is None:
        raise ModelFileError(f"{path}: an ONNX model, but not of speechrnn; make one with: speechrnn export")
    try:
        info = msgspec.json.decode(text, type=ModelInfo)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ModelFileError(
            f"{path}: made by another version of speechrnn ({first_line(error)}); export it again"
        ) from None

    scales_batch = _DYNAMIC_SCALE in path.read_bytes()  # as layers in 8 bits do: a context would depend on the others

    def run(output: str, samples: Samples, run_options: Any = None) -> Array:
        parts = np.split(samples, len(samples)) if scales_batch and len(samples) > 1 else [samples]
        try:
            outputs: list[Any] = [session.run([output], {"samples": part}, run_options)[0] for part in parts]
            return np.concatenate(outputs).astype(np.float32, copy=False)
        except Exception as error:
            raise ModelFileError(
                f"{path}: its network cannot be run on contexts of {samples.shape[1]} samples ({first_line(error)}); "
                "export it again"
            ) from None

    with _ended_in_time(onnxruntime.RunOptions()) as run_options:
        _check_run(Recognizer(info, partial(run, "logits", run_options=run_options), path))
    has_embedding = any(output.name == "embedding" for output in session.get_outputs())
    return Recognizer(info, partial(run, "logits"), path, partial(run, "embedding") if has_embedding else None)


def open_session(graph: Path | bytes, n_threads: int = 1) -> onnxruntime.InferenceSession:
    """A graph, ready to run on the CPU, silently, with so many threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"], enable_fallback=0)


@contextmanager
def _ended_in_time(run_options: Any) -> Iterator[Any]:
    """Make ONNX Runtime give up the run with these options after some seconds, for a graph may loop for ever."""
    timer = threading.Timer(_MAX_FIRST_RUN_S, lambda: setattr(run_options, "terminate", True))
    timer.start()
    try:
        yield run_options
    finally:
        timer.cancel()


def _load_checkpoint(path: Path) -> Recognizer:
    try:
        import torch

        from speechrnn.model.network import load_checkpoint
    except ModuleNotFoundError as error:
        raise ModelFileError(
            f"{path}: is a training checkpoint, but {missing_extra(error.name)}; or give the exported .onnx file"
        ) from None
    except (ImportError, OSError) as error:  # an installed torch that lacks a library of the system
        raise ModelFileError(
            f"{path}: is a training checkpoint, but torch cannot be imported ({first_line(error)}); "
            "install it again, or give the exported .onnx file"
        ) from None
    net, info = load_checkpoint(path)

    def run(function: Callable[[torch.Tensor], torch.Tensor], samples: Samples) -> Array:
        with torch.inference_mode():
            return np.asarray(function(torch.from_numpy(samples)).numpy(), dtype=np.float32)

    return _check_run(Recognizer(info, partial(run, net), path, partial(run, net.embed)))


def save_info(model: Path, target: Path, info: ModelInfo) -> None:
    """Write a model file anew as `target`, which may be the same, with other information; the network stays as it is.

    Raises ModelFileError if it is no model, or the library that writes it is missing.
    """
    write = _write_checkpoint_info if model.suffix == ".pt" else _write_onnx_info
    try:
        write(model, target, info)
    except ModuleNotFoundError as error:
        raise ModelFileError(f"{model}: writing it: {missing_extra(error.name)}") from None


def _write_onnx_info(model: Path, target: Path, info: ModelInfo) -> None:
    import onnx

    content = onnx.load(model)
    set_info(content, info)
    write_whole(target, content.SerializeToString())


def softmax(scores: NDArray[np.floating]) -> Array:
    """Class probabilities [n, C] of class scores [n, C]."""
    with np.errstate(over="ignore"):  # a difference past float32 is a probability of 0
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)


def set_info(content: onnx.ModelProto, info: ModelInfo) -> None:
    """Give the graph of a model file other information."""
    for entry in content.metadata_props:
        if entry.key == METADATA_KEY:
            entry.value = msgspec.json.encode(info).decode()


def _write_checkpoint_info(model: Path, target: Path, info: ModelInfo) -> None:
    from speechrnn.model.network import load_checkpoint, save_checkpoint

    save_checkpoint(target, load_checkpoint(model)[0], info)
