"""A source of one's own: all recordings of a folder, one after another, as one stream."""

from collections.abc import Iterator
from pathlib import Path

import speechrnn
from speechrnn.audio import Samples
from speechrnn.folders import find_audio


class Playlist(speechrnn.AudioSource):
    """A source tells its rate and yields its audio, as float32 [T] in [-1, 1]; everything else is inherited."""

    name = "playlist"
    sample_rate_hz = 16000

    def __init__(self, folder: str) -> None:
        self._files = find_audio(Path(folder))

    def native_blocks(self) -> Iterator[Samples]:
        """Yield the recordings, each at the rate of this source."""
        for file in self._files:
            with speechrnn.FileSource(file) as recording:
                yield from recording.blocks(self.sample_rate_hz)


for found in speechrnn.listen(Playlist("examples/audio")):
    print(f"{found.end_s:6.1f} s  {found.label}")
