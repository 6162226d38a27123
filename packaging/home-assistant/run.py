"""What the app runs: the options that Home Assistant's page of it offers, as a command line."""

import json
import os
import sys
from pathlib import Path
from typing import Any


def command(options: dict[str, Any]) -> list[str]:
    """The command line of a server with these options."""
    words = ["speechrnn", "wyoming", "--uri", "tcp://0.0.0.0:10400", "--zeroconf", "speechrnn"]
    for model in options.get("models", []):
        words += ["--model", model]
    if options.get("keywords"):
        words += ["--keywords", ",".join(options["keywords"])]
    if options.get("operating_point", "default") != "default":
        words += ["--operating-point", options["operating_point"]]
    if options.get("in_speech"):
        words += ["--in-speech"]
    return [*words, "--log-level", options.get("log_level", "info")]


if __name__ == "__main__":
    arguments = command(json.loads(Path(sys.argv[1] if len(sys.argv) > 1 else "/data/options.json").read_text()))
    os.execvp(arguments[0], arguments)
