"""Which entries a session may have after what its client tried: all worlds that are possible.

An acknowledged change leaves one world, an attempt without an outcome two: it had its effect or
not. Only sessions that one client changes are followed; for the others the messages are checked.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.torture.history import Attempt, Event, Kind, Outcome, Restarted
from tests.torture.laws import Law, Violation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

NEW: Final = "?"
"""A session id that nobody was told."""


@dataclass(frozen=True, slots=True)
class World:
    """What an entry may be."""

    session_id: str | None
    """None where there is no entry."""
    suspended: bool = False

    def fits(self, actual: World) -> bool:
        """Whether an entry that is there can be the one of this world."""
        if self.session_id is None or actual.session_id is None:
            return self.session_id == actual.session_id

        return self.suspended == actual.suspended and self.session_id in {NEW, actual.session_id}


NOTHING: Final = World(None)


def world_of(entry: Mapping[str, Any] | None) -> World:
    """Return the world that an entry is."""
    if entry is None:
        return NOTHING

    return World(str(entry["session_id"]), entry["suspended_at"] is not None)


def check_entries(
    events: Sequence[Event], entries: Mapping[str, Mapping[str, Any]]
) -> list[Violation]:
    """Compare the entries with what clients tried; also those that restarted daemons showed."""
    clients: dict[str, set[str]] = defaultdict(set)
    for event in events:
        if isinstance(event, Attempt) and event.key:
            clients[event.key].add(event.client)
    violations: list[Violation] = []
    for key, names in clients.items():
        if len(names) == 1:
            session = _Session(key)
            for event in events:
                session.take(event)
            session.compare(entries.get(key), "at the end")
            violations += session.violations
    violations += [
        Violation(Law.UNATTEMPTED, f"entry of {key}") for key in entries if key not in clients
    ]
    return violations


@dataclass(slots=True)
class _Session:
    """The worlds of one session, event by event."""

    key: str
    worlds: set[World] = field(default_factory=lambda: {NOTHING})
    seen: set[World] = field(default_factory=lambda: {NOTHING})
    """Every world that once was certain."""
    before: set[World] = field(default_factory=set)
    """The worlds before the attempt that has no outcome yet."""
    attempt: Attempt | None = None
    """The one that has no outcome yet."""
    crossed: bool = False
    """Whether a prune ran at any time of it."""
    uncertain: bool = False
    """Whether an attempt since the last restart may have an effect later."""
    prunes: dict[int, bool] = field(default_factory=dict)
    """Prunes that run, by moment, and whether this session was left alone meanwhile."""
    violations: list[Violation] = field(default_factory=list)

    def take(self, event: Event) -> None:
        match event:
            case Restarted():
                self._restart(event)
            case Attempt(kind=Kind.PRUNE):
                alone = self.attempt is None and not self.uncertain
                self.prunes[event.moment], self.crossed = alone, True
            case Attempt() if event.key == self.key:
                self.prunes = dict.fromkeys(self.prunes, False)
                self.before, self.attempt = set(self.worlds), event
                self.crossed = bool(self.prunes)
                self.worlds |= _effects(event.kind, self.worlds)
            case Outcome() if event.attempt in self.prunes:
                self._pruned(event)
            case Outcome() if self.attempt is not None and event.attempt == self.attempt.moment:
                self._told(self.attempt, event)
                self.attempt = None
                if self.crossed:
                    self._may_drop()
            case _:
                return
        if self.prunes:
            self._may_drop()
        if len(self.worlds) == 1:
            self.seen |= self.worlds

    def compare(self, entry: Mapping[str, Any] | None, when: str) -> None:
        actual = world_of(entry)
        if any(world.fits(actual) for world in self.worlds):
            return

        # What was certain once and is there again has come back; anything else is nobody's.
        law = Law.LOST if actual in self.seen or actual == NOTHING else Law.UNATTEMPTED
        expected = sorted(map(str, self.worlds))
        self.violations.append(
            Violation(law, f"entry of {self.key} {when}: {actual}, accepted are {expected}")
        )

    def _restart(self, event: Restarted) -> None:
        entry = event.entries.get(self.key)
        self.compare(entry, f"at restart {event.moment}")
        self.worlds, self.attempt, self.uncertain = {world_of(entry)}, None, False
        self.prunes.clear()

    def _may_drop(self) -> None:
        self.worlds |= {_dropped(world) for world in self.worlds}
        self.before |= {_dropped(world) for world in self.before}
        if self.attempt is not None:
            self.worlds |= _effects(self.attempt.kind, self.before)

    def _pruned(self, event: Outcome) -> None:
        alone = self.prunes.pop(event.attempt)
        if event.done and alone:
            self.worlds = {_dropped(world) for world in self.worlds}

    def _told(self, attempt: Attempt, event: Outcome) -> None:
        if attempt.kind is Kind.ERASE and event.lacked_storage:
            return  # the steps of an erasure are many, and the disk may be full at the last
        if event.refused:
            self.worlds = set(self.before)
        elif not event.done:
            self.uncertain = True
        elif attempt.kind in {Kind.REMOVE, Kind.ERASE}:
            self.worlds = {NOTHING}
        elif attempt.kind is not Kind.SAY:
            self.worlds = {world_of(event.body)}
        elif event.body["duplicate"]:
            self.worlds = set(self.before)
        else:
            told = World(event.body["session_id"], event.body["status"] == "paused")
            if not any(world.fits(told) for world in self.worlds):
                expected = sorted(map(str, self.worlds))
                place = f"{self.key} answered as {told}, accepted are {expected}"
                self.violations.append(Violation(Law.LOST, place))
            self.worlds = {told}


def _effects(kind: Kind, worlds: Iterable[World]) -> set[World]:
    """Return what an attempt may make of worlds."""
    match kind:
        case Kind.SAY:
            return {World(NEW) if world == NOTHING else world for world in worlds}
        case Kind.RESET | Kind.UNDO:
            fresh = {World(NEW, suspended=world.suspended) for world in worlds}
            # An undo may bring a session back as it was when it ended, paused or not.
            return fresh | ({World(NEW, suspended=True)} if kind is Kind.UNDO else set())
        case Kind.SUSPEND | Kind.RESUME:
            paused = kind is Kind.SUSPEND
            return {
                world if world == NOTHING else World(world.session_id, suspended=paused)
                for world in worlds
            }
        case _:
            return {NOTHING}


def _dropped(world: World) -> World:
    """Return what a prune leaves of a world."""
    return world if world.suspended else NOTHING
