"""Statistics of the parts as Prometheus metrics: one table, read when it is scraped.

No label names a session, a user or a chat: their number has no bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from gateway.api.answers import shown_usd
from gateway.channels.running import ChannelState
from gateway.context.cache import CacheVerdict
from gateway.pruning.records import RunStatus
from gateway.tools.server import ServerState
from gateway.webhooks.line import WebhookState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from gateway.api.context import ApiContext
    from gateway.turns.contexts import Contexts


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
        yield from self._of_contexts()
        yield from self._of_pruning()
        yield from self._of_tools()
        yield from self._of_processes()
        yield from self._of_channels()
        yield from self._of_webhooks()
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
        for status in ("completed", "failed", "deadline", "interrupted", "lost_commits"):
            ended.add_metric([status], getattr(turns, status))
        yield ended
        yield _counter("duplicates", "Messages that had been accepted before.", turns.duplicates)
        yield _counter("refused", "Messages refused because of a bound.", turns.refused)
        yield _counter("paused", "Messages to paused sessions.", turns.paused)
        yield _counter("recovered", "Messages that a restart found unanswered.", turns.recovered)
        yield _counter(
            "stood_in", "Turns that another agent has answered than their own.", turns.stood_in
        )
        commands = CounterMetricFamily(
            "gateway_commands", "Commands carried out, by name.", labels=["command"]
        )
        for name, number in sorted(self._context.door.counts.items()):
            commands.add_metric([name], number)
        yield commands
        access = self._context.door.access.statistics()
        yield _counter("admitted", "Messages of people who may talk.", access.admitted)
        strangers = CounterMetricFamily(
            "gateway_strangers",
            "Messages that were not taken: of others, or in groups to nobody here.",
            labels=["result"],
        )
        for result, number in sorted(access.strangers.items()):
            strangers.add_metric([result], number)
        yield strangers
        yield _gauge("asking", "Turns that wait for the user's yes to a tool.", turns.asking)
        yield _gauge(
            "agents_resting",
            "Agents not asked first for a time, for their provider failed.",
            len(turns.resting_agents),
        )

    def _of_tools(self) -> Iterator[Metric]:
        running = GaugeMetricFamily(
            "gateway_tool_server_running", "1 while a tool server runs.", labels=["server"]
        )
        restarts = CounterMetricFamily(
            "gateway_tool_server_restarts", "How often it was started again.", labels=["server"]
        )
        calls = CounterMetricFamily(
            "gateway_tool_calls", "Calls of tools, by how they ended.", labels=["server", "result"]
        )
        for server in self._context.servers():
            running.add_metric([server.server], int(server.state is ServerState.RUNNING))
            restarts.add_metric([server.server], server.restarts)
            failed = server.failures - server.timeouts
            calls.add_metric([server.server, "ok"], server.calls - server.failures)
            calls.add_metric([server.server, "failed"], failed)
            calls.add_metric([server.server, "timeout"], server.timeouts)
        yield from (running, restarts, calls)

    def _of_processes(self) -> Iterator[Metric]:
        processes = self._context.processes.statistics()
        yield _gauge("processes_running", "Background processes that run.", processes.running)
        yield _gauge(
            "processes_overdue", "Of these, too old to keep their sessions.", processes.overdue
        )
        yield _gauge("processes_unreported", "Ended, and not told yet.", processes.unreported)
        yield _counter("processes_started", "Background processes started.", processes.started)
        yield _counter("processes_adopted", "Found running at a start.", processes.adopted)
        yield _counter("processes_lost", "Whose end nobody knows.", processes.lost)
        yield _counter("processes_reported", "Ends that were told.", processes.reported)

    def _of_channels(self) -> Iterator[Metric]:
        names = ["platform", "account"]
        running = GaugeMetricFamily(
            "gateway_channel_running", "1 while a channel runs.", labels=names
        )
        restarts = CounterMetricFamily(
            "gateway_channel_restarts", "How often it was run again.", labels=names
        )
        states = GaugeMetricFamily(
            "gateway_channel_state", "1 for the state it is in.", labels=[*names, "state"]
        )
        for one in self._context.channels():
            of_one = [one.platform, one.account]
            for state in ChannelState:
                states.add_metric([*of_one, state.value], int(one.state is state))
            running.add_metric(of_one, int(one.state is ChannelState.RUNNING))
            restarts.add_metric(of_one, one.restarts)
        yield from (running, restarts, states)
        outbox = self._context.delivery.statistics()
        yield _gauge("outbox_owed", "Replies to channels that are not sent.", outbox.owed)
        yield _gauge("outbox_dead", "Dead letters that are kept.", outbox.dead)
        yield _gauge(
            "outbox_oldest_owed_seconds", "Age of the oldest owed reply.", outbox.oldest_owed_s
        )
        yield _counter("outbox_sent", "Replies sent to channels.", outbox.sent)
        yield _counter("outbox_retried", "Tries to send beyond the first.", outbox.retried)
        yield _counter("outbox_given_up", "Replies that became dead letters.", outbox.given_up)

    def _of_webhooks(self) -> Iterator[Metric]:
        names = ["webhook"]
        states = GaugeMetricFamily(
            "gateway_webhook_state", "1 for the state it is in.", labels=[*names, "state"]
        )
        queued = GaugeMetricFamily("gateway_webhook_queued", "Events that wait.", labels=names)
        dead = GaugeMetricFamily(
            "gateway_webhook_dead", "Dead letters that are kept.", labels=names
        )
        oldest = GaugeMetricFamily(
            "gateway_webhook_oldest_queued_seconds", "Age of the oldest that waits.", labels=names
        )
        posts = CounterMetricFamily(
            "gateway_webhook_posts", "Posts of events, by result.", labels=[*names, "result"]
        )
        given_up = CounterMetricFamily(
            "gateway_webhook_given_up", "Events that became dead letters.", labels=names
        )
        for one in self._context.webhooks.statistics():
            of_one = [one.webhook]
            for state in WebhookState:
                states.add_metric([*of_one, state.value], int(one.state is state))
            queued.add_metric(of_one, one.queued)
            oldest.add_metric(of_one, one.oldest_queued_s)
            dead.add_metric(of_one, one.dead)
            posts.add_metric([*of_one, "delivered"], one.delivered)
            posts.add_metric([*of_one, "failed"], one.failed)
            given_up.add_metric(of_one, one.given_up)
        yield from (states, queued, oldest, dead, posts, given_up)

    def _of_contexts(self) -> Iterator[Metric]:
        contexts = context_statistics(self._context.turns.contexts)
        yield _counter("context_rounds", "Pruning rounds done on contexts.", contexts.rounds)
        results = CounterMetricFamily(
            "gateway_context_results",
            "Tool results that pruning rounds made shorter, by how.",
            labels=["mode"],
        )
        results.add_metric(["trim"], contexts.trimmed)
        results.add_metric(["clear"], contexts.cleared)
        yield results
        yield _counter(
            "context_saved_tokens",
            "Tokens that pruning rounds took out of contexts, estimated.",
            contexts.saved_tokens,
        )
        # No counter: a round at a warm cache may cost more than it saves.
        yield _gauge(
            "context_saved_usd",
            "What pruning rounds saved at the requests right after them, in US dollars; "
            "only of models whose price is configured.",
            contexts.saved_usd,
        )
        compactions = CounterMetricFamily(
            "gateway_context_compactions",
            "Attempts to summarise old turns, by what came of them.",
            labels=["result"],
        )
        compactions.add_metric(["done"], contexts.compactions)
        compactions.add_metric(["failed"], contexts.compactions_failed)
        yield compactions
        calls = CounterMetricFamily(
            "gateway_model_calls",
            "Model calls, by what became of them at the provider's prompt cache.",
            labels=["cache"],
        )
        for verdict, count in contexts.model_calls.items():
            calls.add_metric([verdict], count)
        yield calls

    def _of_pruning(self) -> Iterator[Metric]:
        told = self._context.pruning.statistics()
        stored, manager = told.stored, told.manager
        yield _gauge("items", "Stored messages and tool results.", stored.totals.items)
        yield _gauge("items_size_bytes", "Size of their contents.", stored.totals.size_bytes)
        yield _gauge("items_tokens", "Their tokens, estimated.", stored.totals.tokens)
        yield _gauge("items_held", "Originals of pruned items, in their grace.", stored.held)
        yield _gauge("items_archived", "Items in archive files.", stored.archived)
        yield _gauge("archive_files", "Archive files.", told.archive.files)
        yield _gauge("archive_size_bytes", "Their size on disk.", told.archive.file_bytes)
        yield _gauge("items_unreadable", "Stored items that no rule can see.", stored.unreadable)
        yield _gauge(
            "items_quarantined", "Items that pruning left alone for failures.", manager.quarantined
        )
        pruned = CounterMetricFamily(
            "gateway_items_pruned", "Items that rules took, by action.", labels=["action"]
        )
        for action in ("delete", "archive", "summarize", "compact"):
            pruned.add_metric([action], manager.pruned_by_action.get(action, 0))
        yield pruned
        yield _counter("items_freed_bytes", "Bytes that pruning freed.", manager.freed_bytes)
        runs = CounterMetricFamily(
            "gateway_pruning_runs",
            "Pruning runs, by how they ended; refused: they would have taken too much.",
            labels=["status"],
        )
        for status in RunStatus:
            runs.add_metric([status], manager.runs_by_status.get(status, 0))
        runs.add_metric(["failed"], manager.failures)
        yield runs
        if manager.last_run is not None:
            at = manager.last_run.completed_at.timestamp()
            yield _gauge("pruning_last_run_timestamp_seconds", "End of the last run.", at)
        if manager.next_due_at is not None:
            at = manager.next_due_at.timestamp()
            yield _gauge("pruning_next_due_timestamp_seconds", "When something is due.", at)

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


@dataclass(frozen=True, slots=True)
class ContextStatistics:
    """What became of contexts since the start."""

    rounds: int
    """Pruning rounds."""
    trimmed: int
    cleared: int
    saved_tokens: int
    """What rounds took out of contexts, estimated."""
    saved_usd: float
    """What that saved at the requests right after the rounds, of models whose price is known."""
    compactions: int
    """Summaries that took the place of old turns."""
    compactions_failed: int
    """Attempts that changed nothing."""
    model_calls: dict[str, int]
    """Model calls by what became of them at the provider's prompt cache."""


def context_statistics(contexts: Contexts) -> ContextStatistics:
    """Return what became of contexts since the start."""
    telling = contexts.telling
    return ContextStatistics(
        rounds=telling.rounds,
        trimmed=telling.pruned["trim"],
        cleared=telling.pruned["clear"],
        saved_tokens=telling.saved_tokens,
        saved_usd=shown_usd(telling.saved_usd),
        compactions=telling.compactions["done"],
        compactions_failed=telling.compactions["failed"],
        model_calls={verdict.value: telling.verdicts[verdict] for verdict in CacheVerdict},
    )


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"gateway_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"gateway_{name}", text, value=value)
