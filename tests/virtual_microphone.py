"""A microphone without hardware: a private PulseAudio server whose default source records what is played into it."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Self

from tests.helpers import PATIENCE_S

_ALSA = """\
</usr/share/alsa/alsa.conf>
pcm.!default { type pulse }
ctl.!default { type pulse }
"""


def missing() -> str:
    """What this machine lacks for a virtual microphone, or nothing."""
    programs = [name for name in ("pulseaudio", "pactl", "paplay") if shutil.which(name) is None]
    return ", ".join(programs + ([] if ctypes.util.find_library("portaudio") else ["libportaudio2"]))


class VirtualMicrophone:
    """Starts the server in a folder of its own; `environment` makes a program use it. Ends what it started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        runtime = folder / "run"
        runtime.mkdir(mode=0o700)
        self._socket = runtime / "native"
        alsa = folder / "asound.conf"
        alsa.write_text(_ALSA)
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "DBUS_SESSION_BUS_ADDRESS"},
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(runtime),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "PULSE_RUNTIME_PATH": str(runtime),
            "PULSE_SERVER": f"unix:{self._socket}",
            "ALSA_CONFIG_PATH": str(alsa),
        }
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the sound server and wait until it answers."""
        modules = [
            f"module-native-protocol-unix socket={self._socket} auth-anonymous=1",
            "module-null-sink sink_name=speaker rate=48000",
        ]
        command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no"]
        command += [part for module in modules for part in ("-L", module)]
        quiet = subprocess.DEVNULL
        self._server = subprocess.Popen(command, env=self.environment, stdout=quiet, stderr=quiet)
        for _ in range(10 * PATIENCE_S):
            ready = ["pactl", "set-default-source", "speaker.monitor"]
            if subprocess.run(ready, env=self.environment, stdout=quiet, stderr=quiet, check=False).returncode == 0:
                return
            time.sleep(0.1)
        raise TimeoutError("the sound server did not start")

    def kill(self) -> None:
        """End the sound server as a crash would."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None
        self._socket.unlink(missing_ok=True)

    def play(self, path: Path) -> None:
        """Play a file into the microphone and wait for its end."""
        command = ["paplay", "--device=speaker", str(path)]
        subprocess.run(command, env=self.environment, check=True, timeout=PATIENCE_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *details: object) -> None:
        self.kill()
