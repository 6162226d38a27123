"""What users have: each form of input becomes the same recordings, and is refused in one line where it is wrong."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from speechrnn.bulk.inputs import Columns, find_entries
from speechrnn.bulk.reading import opened, stretch
from speechrnn.bulk.shards import Entry
from speechrnn.errors import AudioError, DataError
from tests.bulk.jobs import clips
from tests.helpers import RATE_HZ, assert_one_line, noise, write_audio

PATHS = Columns()


def found(*inputs: str | Path, columns: Columns = PATHS) -> list[Entry]:
    return list(find_entries(map(str, inputs), columns, pytest.fail))


def samples_of(entry: Entry, column: str = "") -> list[float]:
    """The first samples of a recording as it is read."""
    with opened(entry, 0, column).audio as audio:
        blocks = list(stretch(audio.blocks(RATE_HZ), RATE_HZ, entry))
    return [round(float(value), 4) for value in blocks[0][:3]]


def expected(n: int) -> list[list[float]]:
    def stored(value: float) -> float:
        return round(round(value * 32768) / 32768, 4)

    return [[stored(value) for value in noise(1600, seed=number)[:3]] for number in range(n)]


@pytest.mark.parametrize("pattern", ["", "/*.wav", "/**/*.wav", "/clip00{0..2}.wav", "/clip{000,001,002}.wav"])
def test_folders_and_patterns(tmp_path: Path, pattern: str) -> None:
    folder = clips(tmp_path / "audio", 3)
    (folder / "notes.md").write_text("no audio")
    (folder / ".hidden.wav").write_text("no audio")
    entries = sorted(found(f"{folder}{pattern}"), key=lambda entry: entry.path)
    assert [entry.path for entry in entries] == [str(folder / f"clip{number:03}.wav") for number in range(3)]
    np.testing.assert_allclose([samples_of(entry) for entry in entries], expected(3), atol=1e-3)


def test_a_name_of_any_bytes_is_found_and_opened(tmp_path: Path) -> None:
    folder = tmp_path / "audio"
    for name in (b"\xff\xfe.wav", "ä b\n.wav".encode(), b"{1..2}.wav", b"[a].wav"):
        write_audio(folder / "x.wav", noise(1600)).rename(folder / os.fsdecode(name))
    entries = found(folder)
    assert [Path(entry.path).name for entry in entries] == ["[a].wav", "{1..2}.wav", "ä b\n.wav", "\\xff\\xfe.wav"]
    np.testing.assert_allclose([samples_of(entry) for entry in entries], expected(1) * 4, atol=1e-3)
    assert [entry.path for entry in found(folder / "[a].wav", folder / "{1..2}.wav")] == [
        str(folder / "[a].wav"),
        str(folder / "{1..2}.wav"),
    ]


def test_a_list_of_paths_starts_from_its_own_folder(tmp_path: Path) -> None:
    folder = clips(tmp_path / "audio", 2)
    (tmp_path / "list.txt").write_text(f"audio/clip000.wav\n\n{folder / 'clip001.wav'}\nmemory://a.wav\n")
    entries = found(tmp_path / "list.txt")
    assert [entry.path for entry in entries] == [
        str(folder / "clip000.wav"),
        str(folder / "clip001.wav"),
        "memory://a.wav",
    ]


@pytest.mark.parametrize("name", ["manifest.jsonl", "manifest.json", "manifest.jsonl.gz"])
def test_a_manifest_of_nemo(tmp_path: Path, name: str) -> None:
    clips(tmp_path, 1)
    line = {"audio_filepath": "clip000.wav", "offset": 0.05, "duration": 0.025, "text": "yes"}
    content = f"{json.dumps(line)}\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    (entry,) = found(tmp_path / name)
    assert entry == Entry(str(tmp_path / "clip000.wav"), offset_s=0.05, duration_s=0.025)
    audio = opened(entry, 0, "").audio
    blocks = list(stretch(audio.blocks(RATE_HZ), RATE_HZ, entry))
    assert sum(map(len, blocks)) == 400
    assert blocks[0][0] == pytest.approx(noise(1600)[800], abs=1e-4)


def test_a_stretch_beyond_the_end_is_said(tmp_path: Path) -> None:
    clips(tmp_path, 1)
    entry = Entry(str(tmp_path / "clip000.wav"), offset_s=2.0)
    with pytest.raises(AudioError) as error:
        list(stretch(opened(entry, 0, "").audio.blocks(RATE_HZ), RATE_HZ, entry))
    assert_one_line(error.value, "ends at 0.10 s, before its offset of 2 s")


def lhotse_cut(source: Path, channels: list[int]) -> dict[str, object]:
    """A cut as Lhotse 1.33 writes it."""
    recording = {
        "id": "clip",
        "sources": [{"type": "file", "channels": channels, "source": str(source)}],
        "sampling_rate": RATE_HZ,
        "num_samples": 1600,
        "duration": 0.1,
        "channel_ids": channels,
    }
    cut = {"id": "clip-0", "start": 0.02, "duration": 0.06, "channel": 0, "supervisions": [], "type": "MonoCut"}
    return {**cut, "recording": recording}


def test_cuts_of_lhotse(tmp_path: Path) -> None:
    clips(tmp_path, 1)
    lines = [json.dumps(lhotse_cut(tmp_path / "clip000.wav", channels)) for channels in ([0], [0, 1])]
    (tmp_path / "cuts.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    mono, stereo = found(tmp_path / "cuts.jsonl.gz")
    assert mono == Entry(str(tmp_path / "clip000.wav"), offset_s=0.02, duration_s=0.06)
    with pytest.raises(AudioError, match="expected a recording of one channel"):
        opened(stereo, 0, "")


def test_a_table_of_paths(tmp_path: Path) -> None:
    folder = clips(tmp_path / "audio", 2)
    table = pyarrow.table({"file": ["audio/clip000.wav", str(folder / "clip001.wav")]})
    pyarrow.parquet.write_table(table, tmp_path / "table.parquet")
    entries = found(tmp_path / "table.parquet", columns=Columns("file"))
    assert [entry.path for entry in entries] == [str(folder / f"clip{number:03}.wav") for number in range(2)]
    with pytest.raises(DataError) as error:
        found(tmp_path / "table.parquet")
    assert_one_line(error.value, "has no column path, but file", "--path-column")


@pytest.mark.parametrize("named", [True, False])
def test_a_table_of_audio(tmp_path: Path, named: bool) -> None:
    """As Hugging Face stores it, and as plain bytes; in several row groups, asked for in any order."""
    n = 40
    contents = [path.read_bytes() for path in sorted(clips(tmp_path / "audio", n).iterdir())]
    struct = [{"bytes": content, "path": f"{number}.wav"} for number, content in enumerate(contents)]
    table = pyarrow.table({"audio": struct if named else contents, "text": [""] * n})
    pyarrow.parquet.write_table(table, tmp_path / "table.parquet", row_group_size=25)
    entries = found(tmp_path / "table.parquet", columns=Columns(audio="audio"))
    names = [f"{number}.wav" if named else str(number) for number in range(n)]
    assert [entry.path for entry in entries] == [f"{tmp_path}/table.parquet/{name}" for name in names]
    for order in (entries, entries[::-1]):
        wanted = expected(n) if order is entries else expected(n)[::-1]
        np.testing.assert_allclose([samples_of(entry, "audio") for entry in order], wanted, atol=1e-3)


def test_archives(tmp_path: Path) -> None:
    for number in range(2):
        with tarfile.open(tmp_path / f"shard-{number}.tar", "w") as archive:
            for name in (f"utt{number}.wav", f"utt{number}.json"):
                content = write_audio(tmp_path / "x.wav", noise(1600, seed=number)).read_bytes()
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    entries = found(tmp_path / "shard-{0..1}.tar")
    assert [entry.path for entry in entries] == [f"{tmp_path}/shard-{n}.tar/utt{n}.wav" for n in range(2)]
    np.testing.assert_allclose([samples_of(entry) for entry in entries], expected(2), atol=1e-3)


def test_objects_of_a_store(tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    for path in sorted(clips(tmp_path, 3).iterdir()):
        fs.pipe_file(f"/bucket/a/{path.name}", path.read_bytes())
    fs.pipe_file("/bucket/list.txt", b"a/clip000.wav\n")
    wanted = [f"memory://bucket/a/clip{number:03}.wav" for number in range(3)]
    for name in (
        "memory://bucket",
        "memory://bucket/a/",
        "memory://bucket/a/*.wav",
        "memory://bucket/a/clip00{0..2}.wav",
    ):
        entries = found(name)
        assert [entry.path.replace(":///", "://") for entry in entries] == wanted
        np.testing.assert_allclose([samples_of(entry) for entry in entries], expected(3), atol=1e-3)
    np.testing.assert_allclose(
        [samples_of(entry) for entry in found("memory://bucket/list.txt")], expected(1), atol=1e-3
    )


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("nothing.there", None, ["no such file or folder"]),
        ("memory://no/where", None, ["no such object"]),
        ("list.jsonl", b'{"text": "yes"}\n', ["line 1: expected an object with audio_filepath"]),
        ("list.jsonl", b"yes\n", ["line 1: expected an object with audio_filepath"]),
        ("shard.tar", b"no archive", ["not readable as a tar file"]),
        ("shard.tar.gz", b"", ["not compressed"]),
        ("list.jsonl.gz", b"no gzip", ["cannot be read"]),
        ("table.parquet", b"no table", ["cannot be read"]),
    ],
)
def test_what_is_no_input_is_said_in_one_line(
    tmp_path: Path, name: str, content: bytes | None, parts: list[str]
) -> None:
    path = name if "://" in name else tmp_path / name
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        found(path)
    assert_one_line(error.value, name, *parts)
