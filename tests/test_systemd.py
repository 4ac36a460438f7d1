"""Laws of the notifications to a service manager."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from gateway.systemd import Notifier

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def manager(tmp_path: Path) -> socket.socket:
    """Return a socket that hears what is sent to `notify` in the test's directory."""
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.bind(str(tmp_path / "notify"))
    heard.settimeout(5)
    return heard


def test_states_go_out_together_a_line_each(manager: socket.socket, tmp_path: Path) -> None:
    with manager:
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})

        notifier.send("READY=1", "STATUS=Listening")
        notifier.send("STOPPING=1")

        assert [manager.recv(4096) for _ in range(2)] == [
            b"READY=1\nSTATUS=Listening",
            b"STOPPING=1",
        ]


def test_an_abstract_address_is_understood() -> None:
    name = f"session-gateway-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind("\0" + name)
        heard.settimeout(5)

        Notifier({"NOTIFY_SOCKET": "@" + name}).send("READY=1")

        assert heard.recv(4096) == b"READY=1"


def test_without_a_manager_nothing_is_sent_and_nothing_fails(tmp_path: Path) -> None:
    for environ in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": str(tmp_path / "gone")}):
        notifier = Notifier(environ)
        notifier.send("READY=1")
        assert notifier.watchdog_interval_s == 0


def _stuff(path: Path) -> None:
    """Send to a socket until it takes no more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stuffing, suppress(BlockingIOError):
        stuffing.settimeout(0)
        stuffing.connect(str(path))
        while True:
            stuffing.send(b"WATCHDOG=1")


def test_a_manager_that_does_not_read_holds_nobody_up_for_ever(
    manager: socket.socket, tmp_path: Path
) -> None:
    with manager:
        _stuff(tmp_path / "notify")

        Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}).send("WATCHDOG=1")


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        pytest.param({"WATCHDOG_USEC": "30000000"}, 30.0, id="for-any-process"),
        pytest.param({"WATCHDOG_USEC": "500", "WATCHDOG_PID": str(os.getpid())}, 0.0005, id="ours"),
        pytest.param({"WATCHDOG_USEC": "500", "WATCHDOG_PID": "1"}, 0.0, id="for-another"),
        pytest.param({"WATCHDOG_USEC": "soon"}, 0.0, id="not-a-number"),
        pytest.param({"WATCHDOG_USEC": "²"}, 0.0, id="not-an-ascii-number"),
        pytest.param({}, 0.0, id="not-wanted"),
    ],
)
def test_the_watchdog_says_how_often_it_wants_to_hear(
    environ: dict[str, str], interval_s: float
) -> None:
    assert Notifier(environ).watchdog_interval_s == interval_s
