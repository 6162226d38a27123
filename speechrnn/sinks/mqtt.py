"""Tells an MQTT broker of each word, and Home Assistant what there is to be told (MQTT 3.1.1)."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import msgspec
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

import speechrnn
from speechrnn.detector import Detection
from speechrnn.errors import ConfigError, DeviceError, first_line
from speechrnn.formats import to_object
from speechrnn.spotter import Step

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_KEEPALIVE_S = 15
_CONNECT_S = 5.0
_CLOSE_S = 1.0
_MAX_WAIT_S = 30
_MAX_UNSENT = 100
_ON, _OFF, _ONLINE, _OFFLINE = "on", "off", "online", "offline"


class Broker(NamedTuple):
    """What an address such as `mqtt://user@host:1883/prefix` says."""

    host: str
    """Name or address."""
    port: int
    """TCP port."""
    is_tls: bool
    """Whether the connection is encrypted."""
    user: str | None
    """Who connects."""
    password: str | None
    """And by which password."""
    prefix: str
    """Topics begin with it."""

    @property
    def name(self) -> str:
        """How messages to people call it."""
        return f"{self.host}:{self.port}"


def parse(url: str, password_file: Path | None = None) -> Broker:
    """The broker that a URL names; its password may be the first line of a file. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme not in _PORTS or not host or parts.query or parts.fragment:
        raise ConfigError("--mqtt: expected mqtt://USER@HOST/PREFIX, or mqtts:// for TLS, got something else")
    prefix = unquote(parts.path).strip("/") or "speechrnn"
    if re.search(r"[#+\0]", prefix) or prefix.startswith("$"):
        raise ConfigError(f"--mqtt: expected a prefix without #, + and a leading $, got {prefix}")
    user, password = (None if part is None else unquote(part) for part in (parts.username, parts.password))
    if password_file is not None:
        password = _read_password(password_file)
    if password is not None and not user:
        raise ConfigError("--mqtt: expected a user with the password, such as mqtt://USER@HOST")
    return Broker(host, port or _PORTS[parts.scheme], parts.scheme == "mqtts", user, password, prefix)


def _read_password(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").split("\n", maxsplit=1)[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--mqtt-password-file {path}: cannot be read ({first_line(error)})") from None


def topic_of(prefix: str, keyword: str) -> str:
    """The topic of a keyword; what would be another level or a wildcard in it is written as in a URL."""
    return f"{prefix}/keyword/" + "".join(quote(letter, safe="") if letter in "/+#%" else letter for letter in keyword)


def discovery(prefix: str, model: str, keywords: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What makes Home Assistant show a device: each keyword as a trigger, and a switch. Messages by topic."""
    node = _identifier(prefix)
    about = {
        "device": {
            "identifiers": [f"speechrnn_{node}"],
            "name": f"speechrnn {prefix}" if prefix != "speechrnn" else prefix,
            "manufacturer": "speechrnn",
            "model": model,
            "sw_version": speechrnn.__version__,
        },
        "origin": {"name": "speechrnn", "sw_version": speechrnn.__version__},
    }
    triggers = {
        f"homeassistant/device_automation/{node}/{_identifier(keyword)}/config": {
            "automation_type": "trigger",
            "type": "detected",
            "subtype": keyword,
            "topic": topic_of(prefix, keyword),
            **about,
        }
        for keyword in keywords
    }
    switch = {
        "name": "Listen",
        "unique_id": f"speechrnn_{node}_listen",
        "icon": "mdi:ear-hearing",
        "command_topic": f"{prefix}/listen",
        "state_topic": f"{prefix}/listening",
        "payload_on": _ON,
        "payload_off": _OFF,
        "availability_topic": f"{prefix}/status",
        "payload_available": _ONLINE,
        "payload_not_available": _OFFLINE,
        **about,
    }
    return {**triggers, f"homeassistant/switch/{node}/listen/config": switch}


def _identifier(text: str) -> str:
    """A name of the letters that Home Assistant allows there; what has others is written in hexadecimal."""
    plain = re.sub(r"[ /]", "_", text)
    return plain if re.fullmatch(r"[a-zA-Z0-9_-]+", plain) else text.encode().hex()


def _is_settled(message: MQTTMessageInfo) -> bool:
    """Whether a message is on its way, or was lost with the connection, which can happen at any time."""
    try:
        return message.is_published()
    except RuntimeError:
        return True


class MqttSink:
    """Publishes each detection at `PREFIX/detected` and at the topic of its keyword, as JSON.

    `PREFIX/status` is `online` while this program lives, retained. `on` or `off` at `PREFIX/listen` switches the
    detections, `PREFIX/listening` tells which holds. What cannot be sent at once is dropped and reported, for a command
    that arrives late does harm; nothing here waits for the broker, but for its first answer. With `messages`, of
    `discovery`, Home Assistant is told what there is.

    Raises DeviceError if the broker refuses who connects, or its certificate is not trusted. One that is not there is
    reported and waited for.
    """

    def __init__(
        self,
        broker: Broker,
        report: Callable[[str], None],
        messages: dict[str, dict[str, Any]] | None = None,
        cafile: Path | None = None,
    ) -> None:
        self._broker, self._report, self._messages = broker, report, messages or {}
        self._is_on = True
        self._was_connected = False
        self._refusal: ReasonCode | None = None
        self._answered = threading.Event()
        self._news: SimpleQueue[str] = SimpleQueue()
        self._unsent: deque[MQTTMessageInfo] = deque()
        self._client = self._make_client(cafile)
        self._connect()

    def write(self, step: Step) -> None:
        """Publish the detections, and report what became of the connection since the last block."""
        self._tell_news()
        for detection in step.detections if self._is_on else ():
            self._publish(detection)

    def close(self) -> None:
        """Say goodbye, if the broker listens."""
        if self._client.is_connected():
            goodbye = self._client.publish(self._topic("status"), _OFFLINE, qos=1, retain=True)
            with suppress(RuntimeError):  # the connection was lost meanwhile: the broker says it by the last will
                goodbye.wait_for_publish(_CLOSE_S)
        self._client.disconnect()
        self._client.loop_stop()
        self._tell_news()

    def _topic(self, name: str) -> str:
        return f"{self._broker.prefix}/{name}"

    def _publish(self, found: Detection) -> None:
        while self._unsent and _is_settled(self._unsent[0]):
            self._unsent.popleft()
        if not self._client.is_connected() or len(self._unsent) >= _MAX_UNSENT or not self._sent(found):
            self._report(f"--mqtt: {self._broker.name} takes no messages; skipped {found.label}")

    def _sent(self, found: Detection) -> bool:
        """Hand a detection to the client; False if the connection is lost just then."""
        message = msgspec.json.encode(to_object(found))
        topics = (self._topic("detected"), topic_of(self._broker.prefix, found.label))
        handed = [self._client.publish(topic, message) for topic in topics]
        self._unsent += handed
        return all(one.rc <= 0 for one in handed)

    def _tell_news(self) -> None:
        while True:
            try:
                self._report(self._news.get_nowait())
            except Empty:
                return

    def _make_client(self, cafile: Path | None) -> Client:
        client = Client(CallbackAPIVersion.VERSION2)
        client.connect_timeout = _CONNECT_S
        client.reconnect_delay_set(1, _MAX_WAIT_S)
        client.will_set(self._topic("status"), _OFFLINE, qos=1, retain=True)
        if self._broker.user is not None:
            client.username_pw_set(self._broker.user, self._broker.password)
        if self._broker.is_tls:
            try:
                client.tls_set_context(ssl.create_default_context(cafile=cafile))
            except OSError as error:
                raise ConfigError(f"--mqtt-cafile {cafile}: cannot be used ({first_line(error)})") from None
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_message = self._on_message
        return client

    def _connect(self) -> None:
        """Connect, or begin to try again and again."""
        try:
            self._client.connect(self._broker.host, self._broker.port, _KEEPALIVE_S)
        except ssl.SSLCertVerificationError as error:
            reason = error.verify_message or first_line(error)
            raise DeviceError(f"--mqtt: {self._broker.name} is not trusted ({reason}); give --mqtt-cafile") from None
        except OSError as error:
            reason = first_line(error) if isinstance(error, socket.gaierror) else error.strerror or first_line(error)
            self._report(f"--mqtt: {self._broker.name} cannot be reached ({reason.lower()}); trying again")
            self._client.connect_async(self._broker.host, self._broker.port, _KEEPALIVE_S)
            self._answered.set()
        self._client.loop_start()
        if not self._answered.wait(_CONNECT_S):
            self._answered.set()
            self._report(f"--mqtt: {self._broker.name} does not answer; trying again")
        if self._refusal is not None:
            self._client.disconnect()
            self._client.loop_stop()
            raise DeviceError(
                f"--mqtt: {self._broker.name} refuses who connects ({str(self._refusal).lower()}); "
                "give a user in the URL, and --mqtt-password-file"
            )

    # What paho calls, in its thread

    def _on_connect(
        self, client: Client, data: object, flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if not reason.is_failure:
            self._was_connected = True
            self._greet(client)
        if not self._answered.is_set():
            self._refusal = reason if reason.is_failure else None
            self._answered.set()
        elif reason.is_failure:
            self._news.put(f"--mqtt: {self._broker.name} refuses who connects ({str(reason).lower()}); trying again")
        else:
            self._news.put(f"--mqtt: connected to {self._broker.name}")

    def _greet(self, client: Client) -> None:
        """Say what there is; what the broker has lost, or another has overwritten, is there again."""
        client.subscribe(self._topic("listen"), qos=1)
        for topic, message in self._messages.items():
            client.publish(topic, msgspec.json.encode(message), qos=1, retain=True)
        client.publish(self._topic("listening"), _ON if self._is_on else _OFF, qos=1, retain=True)
        client.publish(self._topic("status"), _ONLINE, qos=1, retain=True)

    def _on_disconnect(
        self, client: Client, data: object, flags: DisconnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure and self._was_connected:
            self._news.put(f"--mqtt: {self._broker.name} has gone ({str(reason).lower()}); trying again")

    def _on_message(self, client: Client, data: object, message: MQTTMessage) -> None:
        asked = message.payload.decode("utf-8", "replace").strip().lower()
        if asked in (_ON, _OFF):
            self._is_on = asked == _ON
            client.publish(message.topic + "ing", asked, qos=1, retain=True)
        else:
            self._news.put(f"--mqtt: {message.topic}: expected on or off, got {asked[:20]!r}")
