"""From files to samples: every sample that is in a file, once, in order, and one line where some are missing."""

from __future__ import annotations

import io
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from speechrnn import decoding
from speechrnn.audio import Samples, from_int16, to_int16
from speechrnn.decoding import open_audio, read, read_recording
from speechrnn.errors import AudioError, DamagedAudioError
from speechrnn.sources import FileSource
from tests.helpers import RATE_HZ, assert_one_line, noise, sine, write_audio

Read = Callable[[Path, int], Samples]
PIPE_SIZES = (0xFFFFFFFF, 0x7FFFFFFF)
needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no ffmpeg; apt-get install ffmpeg")


def read_by_blocks(path: Path, sample_rate_hz: int) -> Samples:
    with FileSource(path) as source:
        return np.concatenate(list(source.blocks(sample_rate_hz)))


both_readers = pytest.mark.parametrize("read_file", [read, read_by_blocks])


def native(path: Path) -> Samples:
    """All samples of a file at its own rate, which must be whole."""
    with open_audio(path) as file:
        return np.concatenate(list(file.blocks()))


def wav_bytes(riff_size: int, data_size: int, n_samples: int) -> bytes:
    """A 16-bit mono file at 16 kHz whose header gives these sizes, whatever follows."""
    form = struct.pack("<IHHIIHH", 16, 1, 1, RATE_HZ, 2 * RATE_HZ, 2, 16)
    head = b"RIFF" + struct.pack("<I", riff_size) + b"WAVEfmt " + form
    return head + b"data" + struct.pack("<I", data_size) + to_int16(noise(n_samples)).tobytes()


def encoded(samples: NDArray[np.float32], name: str, subtype: str, rate_hz: int = RATE_HZ) -> bytes:
    """Samples as the bytes of a file of one of libsndfile's formats."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=name, subtype=subtype)
    return file.getvalue()


def speech_like(duration_s: float, rate_hz: int = RATE_HZ) -> Samples:
    """Tones that come and go, so that no second is like the one before."""
    t = np.arange(round(duration_s * rate_hz)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * (200 + 300 * t) * t) * (0.6 + 0.4 * np.sin(9 * t))).astype(np.float32)


def converted(folder: Path, samples: Samples, rate_hz: int, name: str, *options: str) -> Path:
    """Samples [T] or [T, channels] as a file that ffmpeg makes; skips where this ffmpeg has no such encoder."""
    source = write_audio(folder / "source.wav", samples, rate_hz)
    path = folder / name
    done = subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", source, *options, path], capture_output=True, text=True)
    if "encoder" in done.stderr:
        pytest.skip(f"this ffmpeg has no encoder for {name}")
    assert not done.returncode, done.stderr
    return path


def decoded_by_ffmpeg(path: Path, n_channels: int) -> Samples:
    """All samples of a file at its own rate as the program ffmpeg decodes them, mixed to mono."""
    command: list[str | Path] = [
        "ffmpeg",
        "-v",
        "quiet",
        "-i",
        path,
        "-map",
        "0:a:0",
        "-f",
        "f32le",
        "-c:a",
        "pcm_f32le",
        "-",
    ]
    values = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, "<f4")
    return np.asarray(values.reshape(-1, n_channels).mean(axis=1), dtype=np.float32)


def make_folder(path: Path) -> None:
    path.mkdir()


def make_empty(path: Path) -> None:
    path.touch()


def make_text(path: Path) -> None:
    path.write_text("This is no audio.\n" * 100)


def make_truncated(path: Path) -> None:
    whole = write_audio(path, noise(3 * RATE_HZ)).read_bytes()
    path.write_bytes(whole[: len(whole) // 3])


def make_without_its_end(path: Path) -> None:
    path.write_bytes(write_audio(path, noise(RATE_HZ)).read_bytes()[:-4])


def make_cut_in_header(path: Path) -> None:
    path.write_bytes(wav_bytes(36, 0, 0)[:30])


def make_without_samples(path: Path) -> None:
    write_audio(path, noise(0))


def make_nan(path: Path) -> None:
    write_audio(path, np.array([0, np.nan, 0], np.float32), subtype="FLOAT")


def make_infinite(path: Path) -> None:
    write_audio(path, np.array([0, np.inf, 0], np.float32), subtype="FLOAT")


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_damaged_flac(path: Path) -> None:
    whole = write_audio(path, noise(3 * RATE_HZ)).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def make_without_index(path: Path) -> None:
    path.write_bytes(b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42\0\0\x10\0mdat" + bytes(1000))


def make_of_one_ghz(path: Path) -> None:
    path.write_bytes(wav_bytes(36, 200, 100).replace(struct.pack("<I", RATE_HZ), struct.pack("<I", 10**9)))


def make_playlist(path: Path) -> None:
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")


@both_readers
@pytest.mark.parametrize(
    ("name", "make", "part"),
    [
        ("missing.wav", lambda path: None, "no such file"),
        ("a" * 300, lambda path: None, "cannot be read"),
        ("folder.wav", make_folder, "got a folder"),
        ("empty.wav", make_empty, "an empty file"),
        ("text.wav", make_text, "not readable as audio"),
        ("headerless.raw", make_text, "not readable as audio"),
        ("truncated.wav", make_truncated, "truncated: 64030 of 96000 bytes are missing"),
        ("two_samples_short.wav", make_without_its_end, "truncated: 4 of 32000 bytes are missing"),
        ("header.wav", make_cut_in_header, "not readable as audio"),
        ("nothing.wav", make_without_samples, "no samples"),
        ("nan.wav", make_nan, "1 samples are not finite"),
        ("infinite.wav", make_infinite, "1 samples are not finite"),
        ("damaged.flac", make_damaged_flac, "of 3.00 s are missing"),
        ("phone.m4a", make_without_index, "its index, which was to come last, is missing"),
        ("gigahertz.wav", make_of_one_ghz, "got 1000000000"),
        ("playlist.mp3", make_playlist, "not readable as audio"),
        ("pipe.wav", make_pipe, "transcribe -"),
    ],
)
def test_unusable_audio_is_one_line_that_names_the_file(
    read_file: Read, name: str, make: Callable[[Path], None], part: str, tmp_path: Path
) -> None:
    make(tmp_path / name)
    with pytest.raises(AudioError) as caught:
        read_file(tmp_path / name, RATE_HZ)
    assert_one_line(caught.value, str(tmp_path / name), part)


NAMED = ("AIFF", "AU", "CAF", "FLAC", "MP3", "OGG", "RF64", "W64", "WAV", "WAVEX")
"""Formats that libsndfile writes."""
WRITTEN = [
    (name, subtype)
    for name in NAMED
    for subtype in sorted(soundfile.available_subtypes(name))
    if not subtype.startswith(("DWVW", "MPEG")) or (name, subtype) == ("MP3", "MPEG_LAYER_III")  # others it only lists
]


@pytest.mark.parametrize(("name", "subtype"), WRITTEN)
def test_every_kind_that_is_written_is_read_whole(name: str, subtype: str, tmp_path: Path) -> None:
    (tmp_path / "whole").write_bytes(encoded(noise(2 * RATE_HZ), name, subtype))
    assert 2 * RATE_HZ <= len(read(tmp_path / "whole", RATE_HZ)) <= 2.3 * RATE_HZ  # some write whole packets only


@pytest.mark.parametrize("n_missing", [100, 5000])
@pytest.mark.parametrize(("name", "subtype"), WRITTEN)
def test_of_every_kind_that_is_truncated_the_rest_is_read_and_the_loss_is_told(
    name: str, subtype: str, n_missing: int, tmp_path: Path
) -> None:
    path, content = tmp_path / "truncated", encoded(noise(6 * RATE_HZ), name, subtype)
    path.write_bytes(content[:-n_missing])
    recording = read_recording(path, RATE_HZ)
    if not recording.problem:  # the padding of an MP3 alone was cut off
        assert (name, len(recording.samples)) == ("MP3", 6 * RATE_HZ)
        return
    assert "missing" in recording.problem
    with open_audio(path) as file:
        blocks: list[Samples] = []
        with pytest.raises(DamagedAudioError) as caught:
            blocks.extend(file.blocks())
    assert_one_line(caught.value, str(path), recording.problem)


@pytest.mark.parametrize("second", [0xE4, 0xE7, 0xF6, 0xFF])
def test_what_hardly_begins_as_mp3_is_read_without_a_word_of_a_library(
    second: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = encoded(noise(RATE_HZ // 2), "MP3", "MPEG_LAYER_III")
    (tmp_path / "damaged").write_bytes(content[:1] + bytes([second]) + content[2:])
    assert len(read_recording(tmp_path / "damaged", RATE_HZ).samples) > RATE_HZ / 4
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@needs_ffmpeg
@pytest.mark.parametrize("name", ["a.mp2", "a.ac3", "a.eac3"])
def test_of_a_stream_without_a_length_a_cut_within_a_packet_is_told(name: str, tmp_path: Path) -> None:
    path = converted(tmp_path, speech_like(3.3, 48000), 48000, name, "-b:a", "128k")
    whole = read(path, 48000)
    path.write_bytes(path.read_bytes()[:-100])
    recording = read_recording(path, 48000)
    assert recording.problem == "truncated within its last packet: 100 bytes are missing, and what came after"
    assert len(whole) - 2 * 1536 <= len(recording.samples) <= len(whole)


MADE = {
    "low.mp3": ["-b:a", "32k"],
    "variable.mp3": ["-q:a", "7"],
    "untagged.mp3": ["-q:a", "7", "-write_xing", "0", "-id3v2_version", "0"],
    "a.mp2": [],
    "a.m4a": [],
    "streaming.mp4": ["-movflags", "frag_keyframe+empty_moov"],
    "a.mov": [],
    "a.aac": [],
    "a.mka": ["-c:a", "libvorbis"],
    "a.opus": [],
    "a.ogg": ["-c:a", "libvorbis"],
    "flac.ogg": ["-c:a", "flac"],
    "a.spx": ["-c:a", "libspeex", "-ar", "16000"],
    "a.flac": [],
    "24.flac": ["-sample_fmt", "s32", "-bits_per_raw_sample", "24"],
    "alac.m4a": ["-c:a", "alac"],
    "a.wv": [],
    "a.wma": [],
    "a.ac3": ["-ar", "48000"],
    "a.wav": [],
    "float.wav": ["-c:a", "pcm_f32le"],
    "adpcm.wav": ["-c:a", "adpcm_ms"],
    "mp3.wav": ["-c:a", "libmp3lame"],
    "a.aiff": [],
    "a.au": [],
    "a.caf": [],
    "a.w64": [],
}


@pytest.mark.slow
@needs_ffmpeg
@pytest.mark.parametrize("n_values", [777, 2**16])
@pytest.mark.parametrize("name", MADE)
def test_any_blocks_of_any_kind_are_what_an_independent_decoder_gives(
    name: str, n_values: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = np.stack([speech_like(3.3, 44100), speech_like(3.3, 44100)[::-1]], axis=1)
    path = converted(tmp_path, samples, 44100, name, *MADE[name])
    monkeypatch.setattr(decoding, "_MAX_VALUES", n_values)
    found, expected = native(path), decoded_by_ffmpeg(path, 2)
    assert len(found) in (len(expected), len(samples))  # newer versions of FFmpeg drop what pads the last packet of MP4
    np.testing.assert_allclose(found, expected[: len(found)], atol=1e-6)


@pytest.mark.slow
@needs_ffmpeg
@pytest.mark.parametrize(
    "name", ["a.mp3", "a.flac", "a.aac", "a.opus", "a.ogg", "flac.ogg", "a.m4a", "a.webm", "a.wav"]
)
def test_files_that_follow_each_other_are_read_to_the_end_of_the_last(name: str, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    mono = converted(tmp_path / "1", speech_like(2.2), RATE_HZ, name, *MADE.get(name, []))
    stereo = converted(
        tmp_path / "2", np.stack([speech_like(1.4, 44100)] * 2, axis=1), 44100, name, *MADE.get(name, [])
    )
    both = tmp_path / f"both.{name}"
    both.write_bytes(mono.read_bytes() + stereo.read_bytes())
    with open_audio(mono) as file:
        rate_hz = file.rate_hz
    expected = [read(mono, rate_hz), read(stereo, rate_hz)]
    found = read(both, rate_hz)
    assert abs(len(found) - sum(map(len, expected))) <= 2  # the second is brought to the rate of the first
    np.testing.assert_allclose(found[: len(expected[0])], expected[0], atol=1e-6)
    n_second = len(expected[1]) - 1000
    np.testing.assert_allclose(found[len(expected[0]) :][500:n_second], expected[1][500:n_second], atol=0.02)


@pytest.mark.slow
@needs_ffmpeg
@pytest.mark.parametrize("kind", ["mp3", "flac", "wav", "adts", "webm", "ogg", "au", "caf", "aiff"])
def test_what_went_through_a_pipe_has_no_true_length_and_is_read_whole(kind: str, tmp_path: Path) -> None:
    samples = speech_like(5.0)
    source = write_audio(tmp_path / "source.wav", samples)
    made = subprocess.run(["ffmpeg", "-v", "error", "-i", source, "-f", kind, "-"], capture_output=True, check=True)
    (tmp_path / "piped").write_bytes(made.stdout)
    found = read(tmp_path / "piped", RATE_HZ)
    assert 0 <= len(found) - len(samples) < 0.15 * RATE_HZ  # the delay and the padding of a codec


@both_readers
@pytest.mark.parametrize("riff_size", PIPE_SIZES)
@pytest.mark.parametrize("data_size", [*PIPE_SIZES, 0x7FFFFFFF - 36])
def test_a_wav_that_went_through_a_pipe_is_read_whole(
    read_file: Read, riff_size: int, data_size: int, tmp_path: Path
) -> None:
    path = tmp_path / "pipe.wav"
    path.write_bytes(wav_bytes(riff_size, data_size, 12345))
    np.testing.assert_array_equal(read_file(path, RATE_HZ), from_int16(to_int16(noise(12345))))


def zeroed(content: bytes, name: bytes, n_bytes: int) -> bytes:
    """A file with the size of a chunk set to zero, as a recorder leaves it that crashed."""
    at = content.index(name) + len(name)
    return content[:at] + bytes(n_bytes) + content[at + n_bytes :]


@pytest.mark.parametrize(
    ("name", "subtype", "chunk", "n_bytes"),
    [
        ("WAV", "PCM_16", b"data", 4),
        ("WAV", "PCM_24", b"data", 4),
        ("WAV", "FLOAT", b"data", 4),
        ("WAV", "ULAW", b"data", 4),
        ("WAV", "MS_ADPCM", b"data", 4),
        ("WAVEX", "PCM_16", b"data", 4),
        ("AIFF", "PCM_16", b"SSND", 4),
        ("RF64", "PCM_16", b"ds64\x1c\0\0\0" + bytes(0), 24),
    ],
)
def test_what_was_never_closed_is_read_whole(
    name: str, subtype: str, chunk: bytes, n_bytes: int, tmp_path: Path
) -> None:
    path, content = tmp_path / "crashed", encoded(speech_like(2.0), name, subtype)
    path.write_bytes(content)
    whole = native(path)
    path.write_bytes(zeroed(content, chunk, n_bytes))
    np.testing.assert_allclose(native(path)[: len(whole)], whole, atol=0.003)  # FFmpeg rounds ADPCM otherwise
    assert len(native(path)) - len(whole) <= 512  # of a codec that packs blocks


def test_a_size_that_was_not_kept_up_to_date_hides_nothing(tmp_path: Path) -> None:
    path = tmp_path / "stale.wav"
    path.write_bytes(wav_bytes(36 + 2000, 2000, 12345))
    recording = read_recording(path, RATE_HZ)
    np.testing.assert_array_equal(recording.samples, from_int16(to_int16(noise(12345))))
    assert recording.notes == ("its header gives a wrong size; all that follows was read",)


def test_what_is_said_of_a_recording_behind_its_samples_is_no_sound(tmp_path: Path) -> None:
    path = tmp_path / "tagged.wav"
    tags = b"LIST\x0a\0\0\0INFOabcdef" + b"abcd\x04\0\0\x00wxyz"
    path.write_bytes(wav_bytes(36 + 200 + len(tags), 200, 100) + tags)
    assert len(native(path)) == 100


def test_an_outer_size_that_is_wrong_is_no_reason_to_refuse(tmp_path: Path) -> None:
    path = tmp_path / "outer.wav"
    for riff_size in (0, 1, 1000, 10**6):
        path.write_bytes(wav_bytes(riff_size, 24690, 12345))
        assert len(native(path)) == 12345


def ogg_checksum(page: bytes) -> int:
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value >> 31 else 0)) & 0xFFFFFFFF
    return value


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_whose_end_is_not_marked_is_read_whole_with_a_note(subtype: str, tmp_path: Path) -> None:
    path, content = tmp_path / "a.ogg", bytearray(encoded(speech_like(3.0), "OGG", subtype))
    at = content.rindex(b"OggS")
    content[at + 5] &= ~4
    content[at + 22 : at + 26] = bytes(4)
    content[at + 22 : at + 26] = struct.pack("<I", ogg_checksum(bytes(content[at:])))
    path.write_bytes(content)
    recording = read_recording(path, RATE_HZ)
    assert len(recording.samples) >= 3 * RATE_HZ
    assert recording.problem == ""
    assert "its end is not marked" in recording.notes[0]


def test_flac_without_a_count_of_samples_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    content = bytearray(write_audio(path, noise(RATE_HZ)).read_bytes())
    content[21] &= 0xF0  # the count of samples is the last 36 bits of bytes 18 to 25
    content[22:26] = bytes(4)
    path.write_bytes(content)
    np.testing.assert_array_equal(native(path), from_int16(to_int16(noise(RATE_HZ))))


def test_what_is_behind_a_damage_in_flac_is_read(tmp_path: Path) -> None:
    path, samples = tmp_path / "a.flac", speech_like(5.0)
    content = bytearray(write_audio(path, samples).read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    recording = read_recording(path, RATE_HZ)
    n_lost = len(samples) - len(recording.samples)
    assert 0 < n_lost < RATE_HZ // 2
    assert recording.problem == f"truncated or damaged: {n_lost / RATE_HZ:.2f} of 5.00 s are missing"
    np.testing.assert_array_equal(recording.samples[-RATE_HZ:], from_int16(to_int16(samples))[-RATE_HZ:])


def test_an_mp3_that_does_not_say_its_length_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "bare.mp3"
    content = write_audio(path, sine(440, 2.0)).read_bytes().replace(b"Xing", bytes(4)).replace(b"Info", bytes(4))
    path.write_bytes(content)
    assert 2 * RATE_HZ <= len(read(path, RATE_HZ)) < 2.2 * RATE_HZ


def test_the_length_that_an_mp3_states_is_found_behind_its_tag(tmp_path: Path) -> None:
    path = tmp_path / "tagged.mp3"
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 2, 44]) + b"\x00" * 300
    content = tag + write_audio(path, noise(2 * RATE_HZ)).read_bytes()
    path.write_bytes(content)
    assert len(read(path, RATE_HZ)) == 2 * RATE_HZ
    path.write_bytes(content[:-1000])
    with pytest.raises(DamagedAudioError, match=r"\d\.\d\d of 2\.00 s are missing"):
        read(path, RATE_HZ)


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_floats_that_hold_integers_are_divided_and_a_note_says_so(bits: int, tmp_path: Path) -> None:
    samples = speech_like(2.0)
    values = samples * np.float32(2.0 ** (bits - 1))
    recording = read_recording(write_audio(tmp_path / "scipy.wav", values, subtype="FLOAT"), RATE_HZ)
    np.testing.assert_allclose(recording.samples, samples, atol=1e-6)
    assert recording.notes == (f"its floating-point samples reach far beyond 1; they are divided by {2 ** (bits - 1)}",)
    assert recording.problem == ""


def test_a_damaged_value_does_not_choose_the_scale(tmp_path: Path) -> None:
    samples = speech_like(1.0)
    values = 32768 * samples
    values[5000] = 1e30
    recording = read_recording(write_audio(tmp_path / "a.wav", values, subtype="FLOAT"), RATE_HZ)
    np.testing.assert_allclose(recording.samples[:5000], samples[:5000], atol=1e-6)
    assert recording.samples[5000] == 8
    assert "1 samples are far out of the range" in recording.problem


def test_a_signalling_nan_among_scaled_values_is_told_without_a_warning(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", 32768 * speech_like(1.0), subtype="FLOAT")
    content = bytearray(path.read_bytes())
    content[-4 * 100 : -4 * 100 + 4] = np.array([0x7F800001], "<u4").tobytes()
    path.write_bytes(content)
    assert "1 samples are not finite" in read_recording(path, RATE_HZ).problem


def test_a_loud_mix_in_floats_is_left_as_it_is(tmp_path: Path) -> None:
    samples = 15 * speech_like(1.0)
    recording = read_recording(write_audio(tmp_path / "a.wav", samples, subtype="FLOAT"), RATE_HZ)
    np.testing.assert_array_equal(recording.samples, samples)
    assert recording.notes == ()


def test_values_that_no_sample_has_are_replaced_and_told(tmp_path: Path) -> None:
    samples = speech_like(1.0)
    samples[[10, 500]] = np.nan, np.inf
    samples[700] = -1e20
    recording = read_recording(write_audio(tmp_path / "a.wav", samples, subtype="FLOAT"), RATE_HZ)
    assert recording.samples[[10, 500, 700]].tolist() == [0, 0, -8]
    assert recording.samples[[9, 11]].tolist() == samples[[9, 11]].tolist()
    assert "2 samples are not finite" in recording.problem
    assert "1 samples are far out of the range" in recording.problem


def test_channels_of_opposite_phase_are_no_silence(tmp_path: Path) -> None:
    samples = speech_like(3.4)
    path = write_audio(tmp_path / "a.wav", np.stack([samples, -samples], axis=1))
    recording = read_recording(path, RATE_HZ)
    np.testing.assert_allclose(recording.samples, samples, atol=1 / 32768)
    assert recording.notes == ("its channels cancel each other for 3.4 s: one alone is taken there",)


MAGIC = [
    b"RIFF____WAVE",
    b"RIFX",
    b"RF64",
    b"FORM",
    b"riff",
    b"caff",
    b".snd",
    b"dns.",
    b"OggS",
    b"fLaC",
    b"ID3\4",
    b"\xff\xfb",
]


@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"A", b"\1\0\0\0"])
@pytest.mark.parametrize("magic", [*MAGIC, b"____ftyp", b"\x1aE\xdf\xa3"])
def test_a_beginning_without_a_sensible_rest_is_one_line(magic: bytes, fill: bytes, tmp_path: Path) -> None:
    path = tmp_path / "begun"
    path.write_bytes(magic + 500 * fill)
    with pytest.raises(AudioError) as caught:
        native(path)
    assert_one_line(caught.value, str(path))


@pytest.mark.parametrize("seed", range(300))
def test_malformed_files_give_samples_or_one_line_and_blocks_of_bounded_size(seed: int, tmp_path: Path) -> None:
    random, path = np.random.default_rng(seed), tmp_path / "malformed"
    name, subtype = WRITTEN[seed % len(WRITTEN)]
    content = bytearray(encoded(speech_like(0.5), name, subtype))
    for _ in range(random.integers(1, 4)):
        at = int(random.integers(min(len(content), 400)))
        content[at : at + 4] = random.choice(
            [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", random.bytes(4), b""]
        )
    path.write_bytes(content)
    try:
        with open_audio(path) as file:
            for block in file.blocks(RATE_HZ):
                assert np.isfinite(block).all()
                assert len(block) <= 16 * 2**16
    except AudioError as error:
        assert_one_line(error, str(path))


@both_readers
@pytest.mark.parametrize(
    ("suffix", "rate_hz", "n_channels", "subtype", "duration_s"),
    [
        (".wav", 16000, 1, "PCM_16", 1.0),
        (".wav", 16000, 8, "PCM_16", 1.0),
        (".wav", 8000, 1, "PCM_16", 1.0),
        (".wav", 192000, 2, "PCM_16", 1.0),
        (".wav", 44100, 2, "PCM_24", 2.3),
        (".wav", 16000, 1, "PCM_U8", 1.0),
        (".wav", 48000, 1, "FLOAT", 1.0),
        (".wav", 48000, 1, "DOUBLE", 1.0),
        (".wav", 16000, 1, "PCM_16", 0.05),
        (".wav", 44100, 1, "PCM_16", 0.05),
        (".flac", 44100, 2, "PCM_16", 1.0),
        (".ogg", 48000, 2, "VORBIS", 1.0),
    ],
)
def test_a_tone_is_read_from_every_kind_of_file(
    read_file: Read, suffix: str, rate_hz: int, n_channels: int, subtype: str, duration_s: float, tmp_path: Path
) -> None:
    levels = np.linspace(0.5, 1.5, n_channels) if n_channels > 1 else np.ones(1)  # their mean is 1
    samples = (sine(1000, duration_s, rate_hz)[:, None] * levels).astype(np.float32)
    found = read_file(write_audio(tmp_path / f"tone{suffix}", samples, rate_hz, subtype), RATE_HZ)
    expected = sine(1000, duration_s)
    assert found.dtype == np.float32
    assert abs(len(found) - len(expected)) <= 1
    middle = slice(200, len(expected) - 200)  # the edges ring where a rate was changed
    np.testing.assert_allclose(found[middle], expected[middle], atol=0.05 if subtype == "VORBIS" else 0.01)


def test_the_name_of_a_file_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "http:,a.mp3"
    path.write_bytes(encoded(noise(RATE_HZ), "FLAC", "PCM_16"))
    np.testing.assert_array_equal(native(path), from_int16(to_int16(noise(RATE_HZ))))


@pytest.mark.parametrize("name", ["WAV", "FLAC", "OGG", "MP3"])
def test_standard_input_may_be_a_file_of_any_kind(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = encoded(speech_like(1.5), name, soundfile.default_subtype(name))
    (tmp_path / "file").write_bytes(content)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    np.testing.assert_array_equal(read(Path("-"), RATE_HZ), read(tmp_path / "file", RATE_HZ))


def test_closed_and_empty_standard_input_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (None, io.TextIOWrapper(io.BytesIO())):
        monkeypatch.setattr("sys.stdin", stream)
        with pytest.raises(AudioError) as caught:
            read(Path("-"), RATE_HZ)
        assert_one_line(caught.value, "-: ")


@pytest.mark.slow
@needs_ffmpeg
def test_twelve_channels_are_mixed(tmp_path: Path) -> None:
    samples = speech_like(1.0)
    twelve = np.stack([samples * np.float32(0.5 + n / 11) for n in range(12)], axis=1)
    path = converted(tmp_path, twelve, RATE_HZ, "a.mka", "-c:a", "pcm_s16le")
    np.testing.assert_allclose(native(path), samples, atol=2e-4)


@pytest.mark.slow
@needs_ffmpeg
@pytest.mark.parametrize("name", ["a.m4a", "alac.m4a", "low.mp3"])
def test_frames_of_many_planes_are_packed_without_a_change(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = converted(tmp_path, np.stack([speech_like(1.0), noise(RATE_HZ)], axis=1), RATE_HZ, name, *MADE[name])
    by_planes = native(path)
    monkeypatch.setattr(decoding, "_MAX_PLANES", 1)
    np.testing.assert_array_equal(native(path), by_planes)
