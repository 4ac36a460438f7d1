"""Settings of item pruning: the rules over what is stored, and for how long what they took is kept.

Durations and sizes stay as they were written, so that they are shown that way; who needs numbers
asks for `keep` or `to_config`. Rules are read by `gateway.pruning.loading`, here as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

from pydantic import AfterValidator, Field

from gateway.errors import BadRequestError
from gateway.pruning.items import ItemType
from gateway.pruning.loading import read_config
from gateway.pruning.tables import PruningConfigError, RuleProblem, Table
from gateway.pruning.units import DURATIONS, MAX_SIZE_BYTES, SIZES, parse_duration_s
from gateway.sessions.key import parse_key
from gateway.settings import Settings, broken_rules

if TYPE_CHECKING:
    from gateway.pruning.rules import PruningConfig

FOREVER: Final = "forever"
STORED_TYPES: Final = frozenset({ItemType.MESSAGE, ItemType.TOOL_RESULT})
"""What the gateway stores; a rule that names another type would never find an item."""
MAX_RULES: Final = 1_000
"""Of all, and of one session: every item is held against each."""
_ARCHIVES: Final = frozenset({"default"})
_ACCEPTED: Final = "accepted is "
_VALUE: Final = "value"


@dataclass(frozen=True, slots=True)
class KeepSettings:
    """For how long what is not needed any more is kept, in seconds; None is for ever."""

    grace_s: float
    """What a rule took can be given back from the database for so long."""
    archive_s: float | None
    """An archive file stays for so long after it was written."""
    audit_s: float | None
    """What is told of runs, and of items that are gone or were given back, stays for so long."""
    removed_sessions_s: float | None
    """The transcript of a conversation that ended goes to the archive after so long; None also
    where pruning is off."""
    exempt_keys: frozenset[str] = frozenset()
    """Session keys whose conversations are left alone, however long ago they ended."""


def _checked(read: Callable[[Table], object], text: str) -> str:
    """Return a text that the reader of tables takes.

    Raises:
        ValueError: it does not take it; the message says what is accepted.
    """
    problems: list[RuleProblem] = []
    read(Table({_VALUE: text}, (), problems))
    if problems:
        raise ValueError(problems[0].text)

    return text


def _duration(text: str) -> str:
    return _checked(lambda table: table.maybe_duration_s(_VALUE), text)


def _interval(text: str) -> str:
    return _checked(lambda table: table.duration_s(_VALUE, above=0), text)


def _size(text: str) -> str:
    return _checked(lambda table: table.maybe_size_bytes(_VALUE, ""), text)


def _keep(text: str) -> str:
    try:
        return text if text == FOREVER else _duration(text)
    except ValueError as error:
        raise ValueError(f"{error}, or {FOREVER}") from None


def _session_key(text: str) -> str:
    try:
        parse_key(text)
    except BadRequestError as error:
        raise ValueError(f"is {error}") from None

    return text


def _rules(rules: list[Any]) -> list[Any]:
    return _checked_rules(rules, {"rules": rules}, ("rules",))


def _session_rules(rules: list[Any]) -> list[Any]:
    return _checked_rules(rules, {"sessions": {"": {"rules": rules}}}, ("sessions", "", "rules"))


def _checked_rules(rules: list[Any], tree: Mapping[str, Any], where: Sequence[str]) -> list[Any]:
    """Return a copy of rules that can be read.

    Args:
        rules: The rules.
        tree: A table in which they stand as in a configuration.
        where: Their place in it.

    Raises:
        ValueError: there are too many.
        ValidationError: they cannot be read; it has every problem, each at its place below them.
    """
    if len(rules) > MAX_RULES:
        raise ValueError(f"has {len(rules)} tables, accepted are at most {MAX_RULES}")

    try:
        _read(tree)
    except PruningConfigError as error:
        raise broken_rules((one.path[len(where) :], one.text) for one in error.found) from None

    return [_plain(rule) for rule in rules]


def _plain(value: object) -> object:
    """Return a copy without nulls, which TOML has not, of what can be read: it has few levels."""
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items() if one is not None}

    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _read(tree: Mapping[str, Any]) -> PruningConfig:
    # Agents write summaries; whether one can, only the agent of the item's session knows.
    return read_config(
        tree, summarizer=True, types=STORED_TYPES, destinations=_ARCHIVES, bare=False
    )


def _said(accepted: str) -> dict[str, Any]:
    return {"accepted": accepted.removeprefix(_ACCEPTED)}


Duration: TypeAlias = Annotated[
    str, AfterValidator(_duration), Field(json_schema_extra=_said(DURATIONS))
]
Interval: TypeAlias = Annotated[
    str, AfterValidator(_interval), Field(json_schema_extra=_said(DURATIONS))
]
Keep: TypeAlias = Annotated[
    str, AfterValidator(_keep), Field(json_schema_extra=_said(f"{DURATIONS}, or {FOREVER}"))
]
Size: TypeAlias = Annotated[str, AfterValidator(_size), Field(json_schema_extra=_said(SIZES))]
Number: TypeAlias = Annotated[int, Field(ge=0, le=MAX_SIZE_BYTES)]
SessionKeyName: TypeAlias = Annotated[str, AfterValidator(_session_key)]


class ProtectionSettings(Settings):
    """What no rule takes, unless its `ignore_protections` says otherwise.

    System messages, running turns and halves of a tool call are kept as well.
    """

    keep_newest: Number = 10
    """So many of the newest items of each conversation."""
    min_age: Duration = "1h"
    """Items younger than this."""
    restored: Duration = "1d"
    """So long an item is left alone after it was given back."""
    settle: Duration = "1h"
    """So long a rule leaves an item alone that another has made shorter."""


class RunBudgetSettings(Settings):
    """What one run does at most; the next goes on where it ended."""

    max_items: Annotated[int, Field(ge=1, le=MAX_SIZE_BYTES)] = 10_000
    """How many items it takes."""
    max_size: Size | None = None
    """What the items that it takes may come to, such as `1GiB`; left out: no limit."""
    max_duration: Duration = "30s"
    """How long it may go on; a summary that takes longer is given up."""
    max_summaries: Number = 20
    """How many summaries it asks agents for."""


class ThresholdSettings(Settings):
    """Numbers that take the place of those in the rules; left out: as in the rules.

    Where no rule has a condition of the kind, what exceeds the number goes to the archive.
    """

    max_age: Duration | None = None
    """The age of an item."""
    max_size: Size | None = None
    """The size of an item."""
    max_tokens: Number | None = None
    """The tokens of an item."""
    max_count: Number | None = None
    """How many items there are."""
    max_total_tokens: Number | None = None
    """The tokens of all items together."""
    max_total_size: Size | None = None
    """The size of all items together."""


class SessionPruningSettings(Settings):
    """What is different for one session: for each of its conversations by itself."""

    exempt: bool = False
    """Whether no rule takes anything of it, nor the archive its conversations that ended long
    ago."""
    rules: Annotated[list[Any], AfterValidator(_session_rules)] = Field(default_factory=list)
    """Rules of its own, as `[[pruning.rules]]`; one takes the place of that with the same id."""
    thresholds: ThresholdSettings = Field(default_factory=ThresholdSettings)


class ItemPruningSettings(Settings):
    """Which stored messages and tool results may age, grow and go.

    Without rules nothing is pruned. What they would do shows `gateway prune plan`.
    """

    enabled: bool = True
    """Whether rules are applied, and conversations that ended long ago go to the archive; plans can
    be made in any case."""
    check_interval: Interval = "5m"
    """How often is looked whether anything is due."""
    min_prune_interval: Duration = "1m"
    """The shortest time from one run that was due to the next."""
    max_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """A run that would take more than this share of all items, or of their bytes, is refused until
    somebody confirms it; 1: none is."""
    grace: Duration = "7d"
    """So long what was deleted, archived or shortened can be given back from the database; then it
    is gone, or in the archive."""
    archive_keep: Keep = "365d"
    """How long archive files are kept; `forever` is accepted."""
    audit_keep: Keep = "365d"
    """How long is kept what was pruned when and why, without contents; `forever` is accepted."""
    removed_sessions_keep: Keep = "365d"
    """Transcripts of conversations that ended longer ago go to the archive, while pruning is
    `enabled` and but for sessions that are `exempt`; `forever` is accepted."""
    protections: ProtectionSettings = Field(default_factory=ProtectionSettings)
    budgets: RunBudgetSettings = Field(default_factory=RunBudgetSettings)
    rules: Annotated[list[Any], AfterValidator(_rules)] = Field(default_factory=list)
    """What happens to items for which all conditions hold: one table each."""
    sessions: dict[SessionKeyName, SessionPruningSettings] = Field(
        default_factory=dict, json_schema_extra={"accepted_names": "a session key"}
    )
    """What is different for some sessions: one table each, by session key."""

    @property
    def keep(self) -> KeepSettings:
        """For how long what is not needed any more is kept.

        Where pruning is off nothing more is taken, of conversations that ended neither; what was
        taken before goes when its time is over.
        """
        return KeepSettings(
            grace_s=parse_duration_s(self.grace),
            archive_s=_keep_s(self.archive_keep),
            audit_s=_keep_s(self.audit_keep),
            removed_sessions_s=_keep_s(self.removed_sessions_keep) if self.enabled else None,
            exempt_keys=frozenset(key for key, one in self.sessions.items() if one.exempt),
        )

    def to_config(self, session_ids_of: Mapping[str, Sequence[str]]) -> PruningConfig:
        """Return what the manager goes by, which knows sessions by their ids.

        Args:
            session_ids_of: The ids of the conversations under each session key that `sessions`
                names; a key that is not there has none.
        """
        tree = self.model_dump(
            mode="json",
            exclude_none=True,
            exclude={"grace", "archive_keep", "audit_keep", "removed_sessions_keep", "sessions"},
        )
        tree["sessions"] = {
            session_id: settings.model_dump(mode="json", exclude_none=True)
            for key, settings in self.sessions.items()
            for session_id in session_ids_of.get(key, ())
        }
        return _read(tree)


def _keep_s(text: str) -> float | None:
    return None if text == FOREVER else parse_duration_s(text)
