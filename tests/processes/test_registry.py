"""Laws of the process registry."""

from __future__ import annotations

import threading

from gateway.model import SessionKey
from gateway.processes.registry import ProcessRegistry
from tests.support.state import key_of

KEY = key_of()


def test_a_session_is_active_from_its_first_process_to_its_last() -> None:
    registry = ProcessRegistry()
    assert not registry.has_active_for_session(KEY)

    registry.started(KEY, "p1")
    registry.started(KEY, "p2")
    registry.ended(KEY, "p1")
    assert registry.has_active_for_session(KEY)
    registry.ended(KEY, "p2")
    assert not registry.has_active_for_session(KEY)


def test_processes_are_counted_once_each() -> None:
    registry = ProcessRegistry()
    for process_id in ("p1", "p1", "p2"):
        registry.started(KEY, process_id)
    registry.started(key_of("bob"), "p1")

    assert len(registry) == 3
    registry.ended(KEY, "p1")
    registry.ended(KEY, "p1")
    assert len(registry) == 2


def test_the_end_of_an_unknown_process_is_no_error() -> None:
    registry = ProcessRegistry()
    registry.ended(KEY, "p1")
    registry.started(KEY, "p1")
    registry.ended(KEY, "p2")
    registry.ended(key_of("bob"), "p1")

    assert registry.has_active_for_session(KEY)


def test_only_the_session_key_names_a_session() -> None:
    registry = ProcessRegistry()
    registry.started(KEY, "p1")

    assert not registry.has_active_for_session(SessionKey("main-alice"))
    assert not registry.has_active_for_session(key_of(agent="other"))


def test_threads_may_start_and_end_processes_at_once() -> None:
    registry = ProcessRegistry()

    def work(name: str) -> None:
        for number in range(500):
            registry.started(KEY, f"{name}{number}")
            assert registry.has_active_for_session(KEY)
            registry.ended(KEY, f"{name}{number}")

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(registry) == 0
    assert not registry.has_active_for_session(KEY)
