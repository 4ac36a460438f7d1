"""What commands answer, in words. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from gateway.model import ContextSource
from gateway.sessions.entry import SessionEntry
from gateway.transcripts.usage import Spent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.model import SessionId
    from gateway.transcripts.reading import SessionRecord

BEGINNING_CHARS: Final = 40
"""How much of a conversation's first message is shown."""
MAX_LISTED: Final = 10
"""How many conversations are listed, the newest."""
NO_SESSION: Final = "There is no conversation yet; your next message begins one."
_MEASURED: Final = {
    ContextSource.USAGE: "counted by the provider",
    ContextSource.ESTIMATE: "estimated",
}
_ENDINGS: Final = {
    "new": "left for a new one",
    "manual": "left for a new one by the operator",
    "idle": "nothing was said for a long time",
    "daily": "a new day began",
    "pruned": "put away after a long time",
    "undone": "left by an undo",
    "switched": "left for an earlier one",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What `/status` tells of a session."""

    entry: SessionEntry
    spent: Spent
    now: datetime
    cache: tuple[bool, float]
    """Whether anything is known of the provider's prompt cache, and for how many seconds it lives
    on; 0: it is cold."""
    next_reset_at: datetime | None
    holds: str
    """What keeps the session from being reset; empty for nothing."""
    running: bool
    asks: bool
    """Whether the turn that runs waits for a yes to a tool."""
    waiting: int
    processes: int


def status_text(status: Status) -> str:
    """Return the answer to `/status`."""
    entry = status.entry
    lines = [
        f"Conversation {entry.session_id}: {_count(entry.turns, 'turn')} since "
        f"{_minute(entry.created_at)}, agent {entry.agent}"
        + (f" ({entry.model})" if entry.model else ""),
        _context(entry, status.now),
        _cost(entry, status.spent),
        _cache(status),
        _work(status),
        _reset(status),
    ]
    if entry.suspended_at is not None:
        lines.append(f"Paused since {_minute(entry.suspended_at)}.")
    return "\n".join(lines)


def sessions_text(
    entry: SessionEntry | None,
    records: Sequence[SessionRecord],
    began_with: Mapping[SessionId, str],
) -> str:
    """Return the answer to `/sessions`.

    Args:
        entry: The conversation that goes on; None where there is none.
        records: All of the key, newest first.
        began_with: What the user said first, of those in which anything was said.
    """
    if not records:
        return NO_SESSION

    lines = []
    for record in records[:MAX_LISTED]:
        began = record.started_at[:16].replace("T", " ")
        if entry is not None and record.session_id == entry.session_id:
            state = "this one"
        else:
            state = _ENDINGS.get(record.end_reason or "", record.end_reason or "ended")
        words = _quoted(began_with.get(record.session_id, ""))
        lines.append(f"{record.session_id}: since {began} UTC, {state}{words}")
    if len(records) > MAX_LISTED:
        lines.append(f"and {len(records) - MAX_LISTED} older ones")
    lines.append("/resume with the last characters of an id goes on with it.")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    words = " ".join(text.split())
    if not words:
        return ""

    shown = words if len(words) <= BEGINNING_CHARS else f"{words[:BEGINNING_CHARS]}..."
    return f': "{shown}"'


def span_text(seconds: float) -> str:
    """Return a span of time in its largest unit, rounded down: `3 min`."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


def _context(entry: SessionEntry, now: datetime) -> str:
    if entry.context_measured_at is None:
        return "Context: not measured yet"

    age = span_text((now - entry.context_measured_at).total_seconds())
    share = ""
    if entry.context_window_tokens:
        percent = 100 * entry.context_tokens / entry.context_window_tokens
        share = f" of {entry.context_window_tokens:,} tokens ({percent:.0f} %)"
    how = _MEASURED.get(entry.context_source, "of unknown source")
    return f"Context: {entry.context_tokens:,}{share or ' tokens'}, {how} {age} ago"


def _cost(entry: SessionEntry, spent: Spent) -> str:
    counted = entry.input_tokens, entry.output_tokens, entry.cache_read_tokens
    if not any((*counted, entry.cache_write_tokens)):
        return "Used: nothing was counted"

    text = f"Used: {entry.total_tokens:,} tokens"
    if spent.usd:
        text += f", {spent.usd:.4f} US dollars"
    if spent.unpriced_calls:
        text += f" ({_count(spent.unpriced_calls, 'request')} without a price)"
    return text


def _cache(status: Status) -> str:
    known, warm_s = status.cache
    if not known:
        return "Cache: unknown"

    return f"Cache: warm for {span_text(warm_s)}" if warm_s > 0 else "Cache: cold"


def _work(status: Status) -> str:
    parts = ["an answer is being made"] if status.running else []
    if status.asks:
        parts = ["a tool waits for your yes (yes shows the question again)"]
    if status.waiting:
        parts.append(f"{_count(status.waiting, 'message')} waiting")
    if status.processes:
        parts.append(f"{_count(status.processes, 'process', 'processes')} in the background")
    return f"Running: {', '.join(parts) or 'nothing'}"


def _reset(status: Status) -> str:
    if status.next_reset_at is None:
        return "Next reset: never by itself"
    if status.entry.suspended_at is not None:
        return "Next reset: not while it is paused"

    text = "with the next message"
    if status.next_reset_at > status.now:
        text = f"with a message after {_minute(status.next_reset_at)}"
    return f"Next reset: {text}" + (f", not while {status.holds}" if status.holds else "")


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def _minute(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
