"""Switch a light by two words: "up" switches it on, "down" off. Ctrl-C ends it."""

import speechrnn


def switch(on: bool) -> None:
    """Here your lamp is told; this one only says what it would do."""
    print("light on" if on else "light off")


for found in speechrnn.listen():
    if found.label in ("up", "down"):
        switch(on=found.label == "up")
