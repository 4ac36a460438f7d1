"""Every error becomes the problem that tells a caller what to do, and never what is secret."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from gateway.api.problems import Problem, bad_request, problem_of
from gateway.errors import (
    BadRequestError,
    BusyError,
    ConflictError,
    DamagedDataError,
    NotFoundError,
    StorageError,
    StorageFullError,
    UnavailableError,
)
from gateway.sessions.resolution import MovedOnError


def _seen(error: Exception) -> Problem:
    problem = problem_of(error)
    assert problem is not None
    return problem


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        pytest.param(BadRequestError("no"), 400, "bad-request", id="bad-request"),
        pytest.param(bad_request(["a", "b"]), 400, "bad-request", id="several"),
        pytest.param(NotFoundError("no"), 404, "not-found", id="not-found"),
        pytest.param(ConflictError("no"), 409, "conflict", id="conflict"),
        pytest.param(MovedOnError(), 409, "conflict", id="moved-on"),
        pytest.param(
            BusyError("no", retry_after_s=2.5, caller_limit=True), 429, "busy", id="caller"
        ),
        pytest.param(
            BusyError("no", retry_after_s=2.5, caller_limit=False), 503, "busy", id="gateway"
        ),
        pytest.param(StorageFullError(), 503, "storage-full", id="full"),
        pytest.param(StorageError(), 503, "storage", id="storage"),
        pytest.param(UnavailableError("no"), 503, "unavailable", id="unavailable"),
    ],
)
def test_an_error_has_its_status_and_kind(error: Exception, status: int, kind: str) -> None:
    problem = _seen(error)

    body = orjson.loads(problem.body())
    assert (problem.status, body["status"]) == (status, status)
    assert body["type"] == f"urn:session-gateway:problem:{kind}"
    assert body["title"]
    assert body["detail"]
    if status in {429, 503}:
        assert int(problem.headers["Retry-After"]) == body["retry_after_s"] >= 1


def test_retry_after_is_whole_seconds_rounded_up() -> None:
    error = BusyError("no", retry_after_s=2.1, caller_limit=True)

    assert _seen(error).headers["Retry-After"] == "3"


@pytest.mark.parametrize("error", [StorageError("/secret/path"), StorageFullError("/secret/path")])
def test_trouble_of_the_storage_tells_no_path(error: Exception) -> None:
    assert b"secret" not in _seen(error).body()


@pytest.mark.parametrize("error", [ValueError("x"), DamagedDataError(Path("x"), "y")])
def test_what_nobody_foresaw_is_left_to_the_log(error: Exception) -> None:
    assert problem_of(error) is None
