"""MQTT against a real broker: what is published where, what a broker that goes away costs, who is refused."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import trustme

import speechrnn
from speechrnn.detector import Detection
from speechrnn.errors import ConfigError, DeviceError
from speechrnn.formats import to_object
from speechrnn.recognizer import load
from speechrnn.sinks import mqtt
from speechrnn.sinks.mqtt import Broker as Address
from speechrnn.sinks.mqtt import MqttSink, discovery, parse, topic_of
from speechrnn.spotter import Step
from tests.helpers import COMMAND, EXAMPLE, PATIENCE_S, ROOT, assert_one_line, run, wait_until
from tests.sinks.broker import MOSQUITTO, Broker, Told

STOP = Detection("stop", 0.9, 1.3, 0.95, 1.6)
WORDS = ["yes", "no", "up", "down", "left", "right", "stop", "go"]
real_broker = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


def step(*found: Detection) -> Step:
    return Step(np.zeros(1600, dtype=np.float32), None, [*found], 1.6)


def sink(broker: Broker, report: Callable[[str], None], **settings: object) -> MqttSink:
    return MqttSink(parse(f"mqtt://127.0.0.1:{broker.port}/hall"), report, **settings)  # type: ignore[arg-type]


def wait_for(hall: MqttSink, true: Callable[[], object]) -> None:
    """Wait for a condition while audio goes on."""

    def goes_on() -> object:
        hall.write(step())
        return true()

    wait_until(goes_on)


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No broker is given up because this machine is slow."""
    monkeypatch.setattr(mqtt, "_CONNECT_S", PATIENCE_S)
    monkeypatch.setattr(mqtt, "_CLOSE_S", PATIENCE_S)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path) as running:
        yield running


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mqtt://broker", Address("broker", 1883, False, None, None, "speechrnn")),
        ("mqtt://me@broker/home/hall/", Address("broker", 1883, False, "me", None, "home/hall")),
        ("mqtts://me:a%3Ab%2Fc@[::1]:99/h%20all", Address("::1", 99, True, "me", "a:b/c", "h all")),
        ("mqtts://broker", Address("broker", 8883, True, None, None, "speechrnn")),
    ],
)
def test_a_url_says_all_of_a_broker(url: str, expected: Address) -> None:
    assert parse(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "http://broker",
        "broker",
        "mqtt://",
        "mqtt:///a",
        "mqtt://broker:port",
        "mqtt://b/%23",
        "mqtt://:secret@b",
        "mqtt://b/a?q",
        "mqtt://b/$SYS",
    ],
)
def test_another_url_is_refused_without_a_word_of_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^--mqtt: expected") as refused:
        parse(url)
    assert "secret" not in str(refused.value)


def test_a_password_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("a:b/c ü\n\n")
    assert parse("mqtt://me:other@broker", tmp_path / "password").password == "a:b/c ü"
    with pytest.raises(ConfigError, match=r"--mqtt-password-file .*none: cannot be read"):
        parse("mqtt://me@broker", tmp_path / "none")
    with pytest.raises(ConfigError, match="expected a user with the password"):
        parse("mqtt://broker", tmp_path / "password")


@pytest.mark.parametrize(
    ("keyword", "expected"),
    [
        ("stop", "p/keyword/stop"),
        ("licht an", "p/keyword/licht an"),
        ("a/b+c#d%", "p/keyword/a%2Fb%2Bc%23d%25"),
    ],
)
def test_the_topic_of_a_keyword_is_one_level_without_wildcards(keyword: str, expected: str) -> None:
    assert topic_of("p", keyword) == expected


def test_home_assistant_is_told_of_a_device_with_a_trigger_for_each_keyword_and_a_switch() -> None:
    messages = discovery("home/hall", "commands10", ["stop", "größer"])
    assert [*messages] == [
        "homeassistant/device_automation/home_hall/stop/config",
        "homeassistant/device_automation/home_hall/6772c3b6c39f6572/config",
        "homeassistant/switch/home_hall/listen/config",
    ]
    allowed = r"homeassistant/(device_automation|switch)/[a-zA-Z0-9_-]+/[a-zA-Z0-9_-]+/config"  # its rule for topics
    assert all(re.fullmatch(allowed, topic) for topic in messages)
    stop, longer, switch = messages.values()
    device = {
        "identifiers": ["speechrnn_home_hall"],
        "name": "speechrnn home/hall",
        "manufacturer": "speechrnn",
        "model": "commands10",
        "sw_version": speechrnn.__version__,
    }
    assert stop == {
        "automation_type": "trigger",
        "type": "detected",
        "subtype": "stop",
        "topic": "home/hall/keyword/stop",
        "device": device,
        "origin": {"name": "speechrnn", "sw_version": speechrnn.__version__},
    }
    assert (longer["subtype"], longer["topic"]) == ("größer", "home/hall/keyword/größer")
    assert (switch["command_topic"], switch["state_topic"]) == ("home/hall/listen", "home/hall/listening")
    assert (switch["availability_topic"], switch["payload_available"]) == ("home/hall/status", "online")
    assert (switch["payload_on"], switch["payload_off"], switch["device"]) == ("on", "off", device)


@pytest.mark.slow
@real_broker
def test_listening_tells_a_broker_what_it_prints(broker: Broker) -> None:
    with Told(broker) as told:
        url = f"mqtt://127.0.0.1:{broker.port}/hall"
        result = run(
            "listen", "--model", "commands10", "--source", EXAMPLE, "--jsonl", "--mqtt", url, "--mqtt-discovery"
        )
        assert result.returncode == 0, result.stderr
        wait_until(lambda: told.at("hall/status") == ["online", "offline"])
        printed = [json.loads(line) for line in result.stdout.splitlines()]
        assert [json.loads(said) for said in told.at("hall/detected")] == printed
        assert [found["label"] for found in printed] == WORDS
        for found in printed:
            assert [json.loads(said) for said in told.at(f"hall/keyword/{found['label']}")] == [found]
    with Told(broker) as later:  # what is retained, and nothing else
        wait_until(lambda: len(later.messages) == len(load("commands10").info.spec.labels.keywords) + 3)
        kept = {topic: said for topic, said, is_retained in later.messages if is_retained}
    assert (kept.pop("hall/status"), kept.pop("hall/listening")) == ("offline", "on")
    assert {topic: json.loads(said) for topic, said in kept.items()} == discovery(
        "hall", "commands10", load("commands10").info.spec.labels.keywords
    )


@pytest.mark.slow
@real_broker
def test_who_is_killed_is_offline_by_its_last_will(broker: Broker) -> None:
    with Told(broker) as told:
        url = f"mqtt://127.0.0.1:{broker.port}/hall"
        command = [*COMMAND, "listen", "--source", "-", "--mqtt", url]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=ROOT) as listener:
            wait_until(lambda: told.at("hall/status") == ["online"])
            listener.kill()
        wait_until(lambda: told.at("hall/status") == ["online", "offline"])


@real_broker
def test_a_topic_switches_the_detections_off_and_on(broker: Broker) -> None:
    said: list[str] = []
    with Told(broker) as told, closing(sink(broker, said.append)) as hall:
        wait_until(lambda: told.at("hall/listening") == ["on"])
        told.say("hall/listen", "OFF")
        wait_until(lambda: told.at("hall/listening") == ["on", "off"])
        hall.write(step(STOP))
        told.say("hall/listen", "on")
        wait_until(lambda: told.at("hall/listening") == ["on", "off", "on"])
        hall.write(step(STOP))
        wait_until(lambda: told.at("hall/detected"))
        told.say("hall/listen", "perhaps")
        wait_for(hall, lambda: said)
        assert [json.loads(message) for message in told.at("hall/detected")] == [to_object(STOP)]
    assert said == ["--mqtt: hall/listen: expected on or off, got 'perhaps'"]


@pytest.mark.slow
@real_broker
def test_a_broker_that_is_killed_and_back_costs_words_but_no_time(broker: Broker) -> None:
    said: list[str] = []
    with closing(sink(broker, said.append)) as hall:
        hall.write(step(STOP))
        broker.kill()
        wait_for(hall, lambda: any("has gone" in message for message in said))
        began_s = time.monotonic()
        for _ in range(100):
            hall.write(step(STOP))
        assert time.monotonic() - began_s < 30
        assert said.count(f"--mqtt: 127.0.0.1:{broker.port} takes no messages; skipped stop") == 100
        broker.start()
        with Told(broker) as told:
            wait_for(hall, lambda: f"--mqtt: connected to 127.0.0.1:{broker.port}" in said)
            wait_until(lambda: told.at("hall/status")[-1:] == ["online"])
            hall.write(step(STOP))
            wait_until(lambda: told.at("hall/detected"))
            assert len(told.at("hall/detected")) == 1  # none of those that were said meanwhile


@contextmanager
def deaf_broker() -> Iterator[int]:
    """The port of a broker that lets in whoever comes, and then reads nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        accepted: list[socket.socket] = []

        def let_in() -> None:
            with suppress(OSError):
                accepted.append(listening.accept()[0])
                accepted[0].recv(1024)
                accepted[0].sendall(b"\x20\x02\x00\x00")

        thread = threading.Thread(target=let_in)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(PATIENCE_S)
        for client in accepted:
            client.close()


@pytest.mark.slow
def test_a_broker_that_takes_nothing_costs_bounded_memory_and_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "_CLOSE_S", 0.2)
    said: list[str] = []
    with deaf_broker() as port, closing(MqttSink(parse(f"mqtt://127.0.0.1:{port}"), said.append)) as hall:
        longest_s = 0.0
        while not said:
            began_s = time.monotonic()
            hall.write(step(STOP))
            longest_s = max(longest_s, time.monotonic() - began_s)
        assert said == [f"--mqtt: 127.0.0.1:{port} takes no messages; skipped stop"]
        assert longest_s < 30
        assert len(hall._unsent) <= mqtt._MAX_UNSENT + 1


def test_a_broker_that_is_not_there_is_reported_and_waited_for() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        said: list[str] = []
        with closing(MqttSink(parse(f"mqtt://127.0.0.1:{port}"), said.append)) as hall:
            hall.write(step(STOP))
    assert said == [
        f"--mqtt: 127.0.0.1:{port} cannot be reached (connection refused); trying again",
        f"--mqtt: 127.0.0.1:{port} takes no messages; skipped stop",
    ]


@real_broker
def test_a_wrong_password_ends_it_with_one_line_that_has_no_password(tmp_path: Path) -> None:
    with Broker(tmp_path, is_closed=True) as broker:
        url = f"mqtt://me:wrong-one@127.0.0.1:{broker.port}"
        failure = run("listen", "--model", "commands10", "--source", EXAMPLE, "--mqtt", url)
        assert_one_line(failure, f"--mqtt: 127.0.0.1:{broker.port} refuses who connects", "--mqtt-password-file")
        assert "wrong-one" not in failure.stderr
        right = parse(f"mqtt://me:a%3Ab%2Fc@127.0.0.1:{broker.port}/hall")
        with Told(broker, "me", "a:b/c") as told:
            MqttSink(right, pytest.fail).close()
            wait_until(lambda: told.at("hall/status") == ["online", "offline"])


@real_broker
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of a socket that paho leaves
def test_tls_trusts_only_whom_it_was_told_to(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = tmp_path / "broker.pem"
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    with Broker(tmp_path, certfile=certificate) as broker:
        address = parse(f"mqtts://127.0.0.1:{broker.port}")
        with pytest.raises(DeviceError, match=r"is not trusted .*; give --mqtt-cafile"):
            MqttSink(address, pytest.fail)
        secure = MqttSink(address, pytest.fail, cafile=tmp_path / "ca.pem")
        assert secure._client.is_connected()
        secure.close()


@real_broker
def test_a_stopped_broker_does_not_hold_up_the_end(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "_CLOSE_S", 0.2)
    hall = sink(broker, pytest.fail)
    broker.process.send_signal(signal.SIGSTOP)
    began_s = time.monotonic()
    hall.close()
    assert time.monotonic() - began_s < 30


def test_options_without_a_broker_are_refused(tmp_path: Path) -> None:
    assert_one_line(run("listen", "--source", EXAMPLE, "--mqtt-discovery"), "expected --mqtt with them")
    failure = run("listen", "--source", EXAMPLE, "--mqtt", "mqtts://127.0.0.1:1", "--mqtt-cafile", tmp_path / "none")
    assert_one_line(failure, "--mqtt-cafile", "cannot be used")
