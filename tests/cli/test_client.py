"""How a command finds its gateway, and what it says of one that fails it."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest
from typing_extensions import override

from gateway.durable.directory import hold
from tests.cli.processes import gateway, running_gateway

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

START = datetime(2026, 1, 1, tzinfo=UTC)
TOKEN = "a-token-made-for-the-tests"


@contextmanager
def held_directory(path: Path, url: str) -> Generator[Path]:
    """Hold a state directory as a daemon does that listens at a URL."""
    with hold(path, started_at=START) as directory:
        (path / "token").write_text(TOKEN)
        directory.announce(url)
        yield path


@contextmanager
def server_that_says(content_type: str, body: bytes) -> Generator[tuple[str, list[str]]]:
    """Serve one answer for every request; give the URL, and the requests' proxies and hosts."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            seen.append(f"{self.path} {self.headers['Host']} {self.headers['Authorization']}")
            self.send_response(200)
            self.send_header("content-type", content_type)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer  # noqa: N815 - named by http.server

        @override
        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def deaf_url() -> Generator[str]:
    """Give a URL at which nobody listens, and hold its port."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def test_a_holder_that_does_not_listen_is_told_as_75(tmp_path: Path) -> None:
    with held_directory(tmp_path / "state", "") as state:
        outcome = gateway("status", "--state-dir", state)

    assert outcome.status == 75
    assert "starting or ending" in outcome.stderr


def test_a_daemon_that_does_not_answer_is_told_with_its_url(tmp_path: Path) -> None:
    with deaf_url() as url, held_directory(tmp_path / "state", url) as state:
        outcome = gateway("sessions", "list", "--state-dir", state)

    assert outcome.status == 69
    assert outcome.stderr.startswith(f"gateway: {url}: the gateway does not answer (")


def test_what_is_not_json_is_not_taken_for_an_answer(tmp_path: Path) -> None:
    with (
        server_that_says("text/html", b"<html>") as (url, _),
        held_directory(tmp_path / "state", url) as state,
    ):
        outcome = gateway("status", "--state-dir", state)

    assert outcome.status == 69
    assert "something else than JSON" in outcome.stderr


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b'event: delta\ndata: {"text":"hel"}\n\n', id="half-an-answer"),
    ],
)
def test_an_answer_that_breaks_off_is_no_answer(tmp_path: Path, body: bytes) -> None:
    with (
        server_that_says("text/event-stream", body) as (url, _),
        held_directory(tmp_path / "state", url) as state,
    ):
        outcome = gateway("chat", "hello", "--state-dir", state)

    assert outcome.status == 69
    assert "broke off" in outcome.stderr


def test_a_failure_in_the_stream_is_told_as_its_problem(tmp_path: Path) -> None:
    body = b'event: error\ndata: {"title":"The storage failed","detail":"x","status":503}\n\n'
    with (
        server_that_says("text/event-stream", body) as (url, _),
        held_directory(tmp_path / "state", url) as state,
    ):
        outcome = gateway("chat", "hello", "--state-dir", state)

    assert outcome.status == 69
    assert outcome.stderr == "gateway: The storage failed: x\n"


def test_the_token_goes_to_the_daemon_and_to_no_proxy(tmp_path: Path) -> None:
    with (
        server_that_says("application/json", b"{}") as (url, seen),
        server_that_says("application/json", b"{}") as (proxy, seen_by_proxy),
        held_directory(tmp_path / "state", url.replace("127.0.0.1", "localhost")) as state,
    ):
        proxies = {"HTTP_PROXY": proxy, "http_proxy": proxy, "ALL_PROXY": proxy}
        outcome = gateway("status", "--state-dir", state, environment=proxies)

    assert outcome.status == 0
    assert seen == [f"/v1/status 127.0.0.1:{url.rpartition(':')[2]} Bearer {TOKEN}"]
    assert seen_by_proxy == []


def test_a_wrong_token_is_a_matter_of_configuration(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running_gateway(state):
        (state / "token").write_text("another-token-than-the-right-one")
        outcome = gateway("status", "--state-dir", state)

    assert outcome.status == 78
    assert outcome.stderr.startswith("gateway: Unauthorized: ")


def test_a_configured_token_is_found_by_the_configuration(tmp_path: Path) -> None:
    secret, file, state = tmp_path / "secret", tmp_path / "gateway.toml", tmp_path / "state"
    secret.write_text(TOKEN)
    secret.chmod(0o600)
    config = f'state_dir = "{state}"\n[http]\ntoken = {{ file = "{secret}" }}\n'
    file.write_text(config)
    with running_gateway(state, config=config):
        found = gateway("status", "--config", file)
        without = gateway("sessions", "list", "--state-dir", state)

        by_variable = gateway(
            "sessions",
            *("list", "--state-dir", state),
            environment={"GATEWAY_HTTP__TOKEN__FILE": str(secret)},
        )

    assert found.status == 0
    assert without.status == 78
    assert without.stderr.startswith("gateway: ")
    assert "give that with --config" in without.stderr
    assert by_variable.status == 0


def test_a_token_that_only_the_service_has_can_be_given_by_a_variable(tmp_path: Path) -> None:
    secret, file, state = tmp_path / "secret", tmp_path / "gateway.toml", tmp_path / "state"
    secret.write_text(TOKEN)
    secret.chmod(0o600)
    running = f'[http]\ntoken = {{ file = "{secret}" }}\n'
    file.write_text('[http]\ntoken = { credential = "gateway-token" }\n')
    listing = ("sessions", "list", "--config", file, "--state-dir", state)
    with running_gateway(state, config=running):
        refused = gateway(*listing)
        listed = gateway(*listing, environment={"GATEWAY_HTTP__TOKEN__FILE": str(secret)})

    assert refused.status == 78
    assert refused.stderr.startswith(f"gateway: {file}:2: http.token: credential gateway-token ")
    assert "$CREDENTIALS_DIRECTORY is not set" in refused.stderr
    assert "GATEWAY_HTTP__TOKEN__FILE=/path gateway ..." in refused.stderr
    assert listed.status == 0


def test_status_without_a_token_still_says_that_the_daemon_runs_and_where(tmp_path: Path) -> None:
    secret, state = tmp_path / "secret", tmp_path / "state"
    secret.write_text(TOKEN)
    secret.chmod(0o600)
    with running_gateway(state, config=f'[http]\ntoken = {{ file = "{secret}" }}\n') as url:
        told = gateway("status", "--state-dir", state)
        document = gateway("status", "--state-dir", state, "--json").document

    assert told.status == 0
    assert told.stdout.splitlines()[0].split() == ["running", "yes"]
    assert url in told.stdout
    assert told.stderr.startswith("gateway: no more without the token: ")
    assert document["running"] is True
    assert document["url"] == url
    assert document["pid"] > 0
    assert document["note"].startswith("no more without the token: ")


def test_a_broken_configuration_does_not_hide_a_daemon_named_by_its_directory(
    tmp_path: Path,
) -> None:
    (tmp_path / "gateway.toml").write_text("broken")
    state = tmp_path / "state"
    with running_gateway(state) as url:
        by_configuration = gateway("status", cwd=tmp_path)
        by_directory = gateway("status", "--state-dir", state, cwd=tmp_path)

    assert by_configuration.status == 78
    assert by_directory.status == 0
    assert url in by_directory.stdout


def test_a_reader_that_has_seen_enough_ends_the_command_silently(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running_gateway(state):
        gateway("chat", "--chat-id", "ann", "x" * 100_000, "--state-dir", state)
        arguments = ["transcript", "export", "agent:main:http::dm:ann::", "--state-dir", str(state)]
        with subprocess.Popen(
            [sys.executable, "-m", "gateway", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            child.stdout.close()
            assert child.stderr.read() == b""
