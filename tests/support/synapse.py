"""A real homeserver on loopback: Synapse, in a virtual environment of its own (`make test`).

One serves all tests of a process of pytest. It ends with that, by its pid, and at the latest with
the thread that started it, so that none is left behind by a kill.
"""

from __future__ import annotations

import atexit
import base64
import ctypes
import hashlib
import hmac
import secrets
import signal
import socket
import subprocess
import sys
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Final

import orjson

from tests.support.lacking import lack
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

PYTHON: Final = Path(__file__).parents[2] / ".synapse" / "bin" / "python"
NAME: Final = "matrix.test"
"""What the homeserver calls itself; its users' ids end so."""
START_S: Final = 120.0
_DIES_WITH_PARENT: Final = 1
_REFUSED: Final = 400
_SECRET: Final = "only-tests-register-here"
_NO_LIMIT: Final = 100_000
_FREE: Final = {"per_second": _NO_LIMIT, "burst_count": _NO_LIMIT}


class NoServerError(Exception):
    """There is no homeserver on this machine, and why."""


@dataclass(frozen=True)
class User:
    """Somebody there."""

    user_id: str
    password: str
    token: str
    device_id: str


class Synapse:
    """A homeserver with a database of its own; it may be stopped and started again."""

    def __init__(self, *, per_second: float = _NO_LIMIT, at_once: int = _NO_LIMIT) -> None:
        """Take how many messages a user may write, in the long run and at once."""
        if not PYTHON.exists():
            raise NoServerError(f"there is no homeserver in {PYTHON.parents[1]}; see `make test`")

        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.directory = Path(mkdtemp(prefix="gw-synapse-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._users = 0
        self._rate = {"per_second": per_second, "burst_count": at_once}
        self._config = self.directory / "homeserver.json"
        self._config.write_bytes(orjson.dumps(self._settings()))
        seed = base64.b64encode(secrets.token_bytes(32)).decode().rstrip("=")
        (self.directory / "signing.key").write_text(f"ed25519 a_test {seed}\n")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [PYTHON, "-m", "synapse.app.homeserver", "-c", self._config],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - it calls the kernel alone
            )
        _wait_for(self._answers, "the homeserver does not answer")

    def stop(self, *, kill: bool = False) -> None:
        """Stop it, and wait until it is gone."""
        process, self._process = self._process, None
        if process is None:
            return

        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def remove(self) -> None:
        """Stop it for good, and delete all it knows."""
        self.stop(kill=True)
        subprocess.run(["rm", "-rf", str(self.directory)], check=False)

    def register(self, name: str = "user") -> User:
        """Return a new user; the id begins with the name."""
        self._users += 1
        fields = {"username": f"{name}-{self._users}", "password": secrets.token_hex(8)}
        path = "/_synapse/admin/v1/register"
        nonce = _ask(self.port, "GET", path)["nonce"]
        said = "\0".join((nonce, fields["username"], fields["password"], "notadmin"))
        mac = hmac.new(_SECRET.encode(), said.encode(), hashlib.sha1).hexdigest()
        body = {**fields, "nonce": nonce, "mac": mac, "admin": False, "displayname": name}
        made = _ask(self.port, "POST", path, body)
        return User(made["user_id"], fields["password"], made["access_token"], made["device_id"])

    def login(self, user: User) -> User:
        """Return the user with a new device, which has sent nothing yet."""
        who = {"type": "m.id.user", "user": user.user_id}
        body = {"type": "m.login.password", "identifier": who, "password": user.password}
        made = _ask(self.port, "POST", "/_matrix/client/v3/login", body)
        return replace(user, token=made["access_token"], device_id=made["device_id"])

    def client(self, user: User) -> Client:
        """Return what a user does, one thing after the other."""
        return Client(self.port, user)

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            tail = (self.directory / "log").read_bytes()[-2_000:].decode(errors="replace")
            raise NoServerError(f"the homeserver ends at once: {tail}")

        # It listens before it knows all its paths.
        with suppress(OSError, HTTPException, AssertionError):
            return bool(_ask(self.port, "GET", "/_matrix/client/versions"))
        return False

    def _settings(self) -> dict[str, Any]:
        limits = ("registration", "joins_per_room", "admin_redaction", "presence")
        return {
            "server_name": NAME,
            "pid_file": str(self.directory / "pid"),
            "listeners": [
                {
                    "port": self.port,
                    "bind_addresses": ["127.0.0.1"],
                    "type": "http",
                    "tls": False,
                    "resources": [{"names": ["client"], "compress": False}],
                }
            ],
            "database": {
                "name": "sqlite3",
                "args": {"database": str(self.directory / "db")},
            },
            "media_store_path": str(self.directory / "media"),
            "signing_key_path": str(self.directory / "signing.key"),
            "registration_shared_secret": _SECRET,
            "macaroon_secret_key": _SECRET,
            "form_secret": _SECRET,
            "report_stats": False,
            "trusted_key_servers": [],
            "suppress_key_server_warning": True,
            "presence": {"enabled": False},
            "bcrypt_rounds": 4,
            # Else a second first sync is told what the first one was.
            "caches": {"sync_response_cache_duration": "0s"},
            "rc_message": self._rate,
            **{f"rc_{name}": _FREE for name in limits},
            "rc_joins": {"local": _FREE, "remote": _FREE},
            "rc_login": dict.fromkeys(("address", "account", "failed_attempts"), _FREE),
            "rc_invites": dict.fromkeys(("per_room", "per_user", "per_issuer"), _FREE),
            "rc_room_creation": _FREE,
        }


class Client:
    """A user at the homeserver, over plain HTTP."""

    def __init__(self, port: int, user: User) -> None:
        self.user = user
        self._port = port
        self._sent = 0

    def ask(self, method: str, path: str, **body: object) -> dict[str, Any]:
        """Ask for something that is granted."""
        said = body if method != "GET" else None
        return _ask(self._port, method, f"/_matrix/client/v3{path}", said, self.user.token)

    def create(self, *invited: User, name: str = "", **more: object) -> str:
        """Return a new room, to which these are invited."""
        people = [one.user_id for one in invited]
        named = {"name": name} if name else {}
        fields = {"preset": "private_chat", "invite": people, **named, **more}
        room: str = self.ask("POST", "/createRoom", **fields)["room_id"]
        return room

    def join(self, room: str) -> None:
        self.ask("POST", f"/rooms/{room}/join")

    def send(self, room: str, content: dict[str, Any], kind: str = "m.room.message") -> str:
        """Send an event, and return its id."""
        self._sent += 1
        path = f"/rooms/{room}/send/{kind}/t{self._sent}-{secrets.token_hex(4)}"
        event: str = self.ask("PUT", path, **content)["event_id"]
        return event

    def say(self, room: str, text: str, **more: object) -> str:
        return self.send(room, {"msgtype": "m.text", "body": text, **more})

    def edit(self, room: str, event: str, text: str) -> str:
        new = {"msgtype": "m.text", "body": text}
        relation = {"rel_type": "m.replace", "event_id": event}
        content = {"msgtype": "m.text", "body": f"* {text}", "m.new_content": new}
        return self.send(room, {**content, "m.relates_to": relation})

    def redact(self, room: str, event: str) -> str:
        """Take an event back, and return the id of what does that."""
        self._sent += 1
        path = f"/rooms/{room}/redact/{event}/r{self._sent}-{secrets.token_hex(4)}"
        redaction: str = self.ask("PUT", path)["event_id"]
        return redaction

    def messages(self, room: str) -> list[dict[str, Any]]:
        """Return what stands in a room, the oldest first, up to a hundred events."""
        found = self.ask("GET", f"/rooms/{room}/messages?dir=b&limit=100")["chunk"]
        return [one for one in reversed(found) if one["type"] == "m.room.message"]

    def of(self, room: str, sender: str) -> list[dict[str, Any]]:
        """Return the contents of what somebody has written in a room, edits left out."""
        return [
            one["content"]
            for one in self.messages(room)
            if one["sender"] == sender and "m.new_content" not in one["content"]
        ]


class _Shared:
    """The homeserver of this process, started when it is first asked for."""

    server: Synapse | None = None
    missing: str | None = None


def missing() -> str:
    """Return why there is no homeserver on this machine; empty: there is one."""
    if _Shared.missing is None:
        try:
            made = Synapse()
            atexit.register(made.remove)
            made.start()
        except (NoServerError, OSError) as error:
            _Shared.missing = str(error)
        else:
            _Shared.server, _Shared.missing = made, ""
    return _Shared.missing


def shared() -> Synapse:
    """Return the homeserver of this process; without one the test is skipped, in CI failed."""
    why = missing()
    if why:
        lack(why)
    assert _Shared.server is not None
    return _Shared.server


def _ask(port: int, method: str, path: str, body: object = None, token: str = "") -> dict[str, Any]:
    """Ask for something that is granted, over a connection of its own."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    said = None if body is None else orjson.dumps(body)
    with closing(HTTPConnection("127.0.0.1", port, timeout=START_S)) as connection:
        connection.request(method, path, said, headers)
        response = connection.getresponse()
        content = response.read()
    assert response.status < _REFUSED, content
    made: dict[str, Any] = orjson.loads(content)
    return made


def _wait_for(holds: Callable[[], bool], why: str) -> None:
    waiting = socket.socketpair()
    try:
        waiting[0].settimeout(0.05)
        for _ in range(int(START_S / 0.05)):
            if holds():
                return

            with suppress(TimeoutError):
                waiting[0].recv(1)
    finally:
        for one in waiting:
            one.close()
    raise NoServerError(f"{why} within {START_S:g} s")


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
