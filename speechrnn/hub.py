"""Models of the Hub: `owner/name` to a file in its cache, and a model folder to a repository.

Nothing here is asked for unless a name has a slash, and is no file or folder of this machine. Of a repository only the
ONNX file is fetched: it is data, while a checkpoint could be code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import speechrnn
from speechrnn.errors import (
    ConfigError,
    MissingModelError,
    ModelFileError,
    OutputError,
    SpeechRnnError,
    first_line,
    missing_extra,
)

MODEL_FILE = "model.onnx"
"""The model in a model folder."""
INT8_FILE = "model.int8.onnx"
"""The same with weights in 8 bits."""
FOLDER_FILES = (MODEL_FILE, INT8_FILE, "config.json", "model.safetensors", "README.md")
"""All that a model folder may hold."""
_NAME = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\w[\w./-]*))?", re.ASCII)
_FILE_SUFFIXES = (".onnx", ".pt")


def is_name(model: str) -> bool:
    """Whether this can be the name of a repository, `owner/name` or `owner/name@revision`, and no model file's."""
    return bool(_NAME.fullmatch(model)) and not model.endswith(_FILE_SUFFIXES)


def fetch(model: str) -> Path:
    """The model file of `owner/name[@revision]` in the local cache, downloaded if it is not there.

    What is in the cache is used without a request, so a device starts without a connection, and always with the same
    model. Raises MissingModelError for a name that is not on the Hub, ModelFileError if it cannot be reached.
    """
    name = _NAME.fullmatch(model)
    assert name is not None
    try:
        from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache
    except ModuleNotFoundError as error:
        raise ModelFileError(
            f"{model}: no file here, and to fetch it from the Hub {missing_extra(error.name)}"
        ) from None
    repository, revision = name["repository"], name["revision"]
    cached = try_to_load_from_cache(repository, MODEL_FILE, revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    try:
        path = hf_hub_download(
            repository,
            MODEL_FILE,
            revision=revision,
            library_name="speechrnn",
            library_version=speechrnn.__version__,
        )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        raise MissingModelError(
            f"{model}: no such file here, and no {MODEL_FILE} for you under that name on the Hub ({_said(error)})"
        ) from None
    except Exception as error:  # of the client and of the library that it speaks by
        raise ModelFileError(
            f"{model}: no such file here nor in the Hub's cache, and the Hub cannot be asked ({_said(error)})"
        ) from None
    return Path(path)


def push(folder: Path, repository: str, *, private: bool = False) -> str:
    """Upload a model folder to a repository `owner/name`, which is made if need be, and return its address.

    Raises ConfigError for another name, ModelFileError for a folder that lacks something, OutputError if the Hub
    refuses or cannot be reached.
    """
    name = _NAME.fullmatch(repository)
    if name is None or name["revision"]:
        raise ConfigError(f"{repository}: expected owner/name, the repository to upload to")
    missing = [file for file in (MODEL_FILE, "config.json", "README.md") if not (folder / file).is_file()]
    if missing:
        raise ModelFileError(f"{folder}: expected a folder that speechrnn export wrote, it lacks {', '.join(missing)}")
    with _refused(repository):
        from huggingface_hub import HfApi

        api = HfApi(library_name="speechrnn", library_version=speechrnn.__version__)
        address = api.create_repo(repository, private=private or None, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=[*FOLDER_FILES],
            commit_message=f"Model of speechrnn {speechrnn.__version__}",
        )
    return str(address)


@contextmanager
def _refused(repository: str) -> Iterator[None]:
    try:
        yield
    except (SpeechRnnError, ModuleNotFoundError):
        raise
    except Exception as error:  # of the client and of the library that it speaks by
        advice = "log in with: hf auth login, or set HF_TOKEN"
        raise OutputError(f"{repository}: not uploaded ({_said(error)}); {advice}") from None


def _said(error: Exception) -> str:
    return first_line(error).rstrip(".")
