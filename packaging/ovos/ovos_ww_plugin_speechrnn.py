"""A keyword of a speechrnn model as a wake word of OpenVoiceOS."""

from typing import Any

import numpy as np
from ovos_plugin_manager.templates.hotwords import HotWordEngine

import speechrnn


class SpeechRnnHotWord(HotWordEngine):
    """Found when the model detects the keyword in what it is given: 16-bit mono PCM at the rate of the model."""

    def __init__(self, key_phrase: str, config: dict[str, Any] | None = None) -> None:
        super().__init__(key_phrase, config)
        recognizer = speechrnn.load(
            self.config.get("model", "commands10"), operating_point=self.config.get("operating_point")
        )
        options = recognizer.info.options.with_choice(
            threshold=self.config.get("threshold"), keywords=[self.config.get("keyword", self.key_phrase)]
        )
        self._spotter = speechrnn.KeywordSpotter(recognizer, options)
        self._is_found = False

    def update(self, chunk: bytes) -> None:
        """Listen to the next samples."""
        samples = np.frombuffer(chunk, dtype="<i2").astype(np.float32) / 32768
        self._is_found |= bool(self._spotter.push(samples))

    def found_wake_word(self, frame_data: bytes | None = None) -> bool:
        """Whether the word was detected since this was last asked."""
        is_found, self._is_found = self._is_found, False
        return is_found

    def reset(self) -> None:
        """Start a new stream."""
        self._spotter.reset()
        self._is_found = False
