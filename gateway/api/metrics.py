"""Statistics of the parts as Prometheus metrics: one table, read when it is scraped.

No label names a session, a user or a chat: their number has no bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from gateway.api.context import ApiContext


class StatisticsCollector:
    """Makes metrics of what the parts count themselves."""

    def __init__(self, context: ApiContext) -> None:
        """Read the context's parts."""
        self._context = context

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering reads no statistics."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every metric with its value of now."""
        yield from self._of_store()
        yield from self._of_turns()
        yield from self._of_database()
        yield from self._of_watcher()

    def _of_store(self) -> Iterator[Metric]:
        store = self._context.store.statistics()
        snapshot = store.snapshot
        yield _gauge("sessions", "Entries in the store.", store.entries)
        yield _gauge("store_sequence", "The last durable change of the store.", store.sequence)
        yield _gauge("snapshot_sequence", "The last change in the snapshot.", snapshot.sequence)
        yield _gauge("snapshot_size_bytes", "Size of the snapshot.", snapshot.size_bytes)
        yield _gauge(
            "snapshot_duration_seconds",
            "How long the last snapshot took.",
            snapshot.duration_ms / 1000,
        )
        yield _counter("snapshots", "Snapshots written.", snapshot.written)
        yield _counter("snapshot_failures", "Snapshots not written.", snapshot.failed)

    def _of_turns(self) -> Iterator[Metric]:
        turns = self._context.turns.statistics()
        yield _gauge("turns_running", "Turns that run.", turns.running)
        yield _gauge("turns_waiting", "Accepted messages whose turn has not begun.", turns.waiting)
        ended = CounterMetricFamily(
            "gateway_turns", "Turns that ended, by how they ended.", labels=["status"]
        )
        for status in ("completed", "failed", "deadline", "lost_commits"):
            ended.add_metric([status], getattr(turns, status))
        yield ended
        yield _counter("duplicates", "Messages that had been accepted before.", turns.duplicates)
        yield _counter("refused", "Messages refused because of a bound.", turns.refused)
        yield _counter("paused", "Messages to paused sessions.", turns.paused)
        yield _counter("recovered", "Messages that a restart found unanswered.", turns.recovered)

    def _of_database(self) -> Iterator[Metric]:
        database = self._context.database.statistics()
        yield _counter("transactions", "Transactions committed.", database.transactions)
        yield _counter("commits", "Group commits, one sync each.", database.commits)
        yield _gauge("transactions_waiting", "Transactions not begun.", database.waiting)
        yield _gauge(
            "commit_seconds", "How long the last commit took.", database.last_commit_ms / 1000
        )
        yield _gauge("commit_seconds_max", "The slowest commit.", database.slowest_commit_ms / 1000)
        yield _gauge("wal_pages", "Pages in the write-ahead log, 4 KiB each.", database.wal_pages)
        yield _gauge("disk_full", "1 while the disk is full.", int(database.full))
        yield _gauge("storage_failed", "1 once the storage failed.", int(database.failed))

    def _of_watcher(self) -> Iterator[Metric]:
        watcher = self._context.watcher.statistics()
        yield _counter("prunes", "Prunes done by the watcher.", watcher.prunes)
        yield _counter("pruned", "Entries dropped by the watcher.", watcher.pruned)
        yield _gauge("prune_next_seconds", "Time to the next prune.", watcher.next_prune_in_s)
        yield _counter(
            "measurements", "Context measurements made durable.", watcher.measurements_written
        )
        yield _gauge(
            "measurements_pending", "Context measurements waiting.", watcher.measurements_pending
        )
        yield _counter("clock_steps", "Jumps of the wall clock.", watcher.clock_steps)
        failures = CounterMetricFamily(
            "gateway_watcher_failures", "Failed duties of the watcher.", labels=["duty"]
        )
        for duty, count in sorted(watcher.failures.items()):
            failures.add_metric([duty], count)
        yield failures


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"gateway_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"gateway_{name}", text, value=value)
