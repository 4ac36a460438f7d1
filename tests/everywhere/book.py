"""What was accepted and what was shown, and the laws that hold of both: pure.

An answer is found by the message that it refers to. What may stand beside it is what the gateway
promises where something broke meanwhile: a part in which it grew before, or one marked repeat.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from gateway.channels.base import REPEAT
from gateway.turns.running import GIVEN_UP
from tests.everywhere.growing import answer_to

if TYPE_CHECKING:
    from collections.abc import Iterator

WAITS: Final = " answered first; yours is kept and comes "
CUTS: Final = 2
"""So many kills of the gateway while it answers, and a message is given up; and so many while the
reply is sent, and nobody knows whether it was."""


@dataclass(frozen=True, slots=True)
class Said:
    """A message of somebody."""

    place: str
    """The chat, or the thread in it."""
    name: str
    """The platform's id of it, or what it is known by."""
    text: str
    at: datetime


@dataclass(slots=True)
class Shown:
    """A message of the gateway."""

    place: str
    shown_id: str
    answers: str
    """The name of the message that it refers to."""
    at: datetime
    reads: list[str]
    """How it has read, one after the other, up to now."""

    @property
    def text(self) -> str:
        return self.reads[-1]


@dataclass(frozen=True, slots=True)
class Break:
    """Something was ended: a daemon, or the server of the platform."""

    begin: datetime
    """When that began."""
    down: datetime
    """When it had ended."""
    kills: bool
    """Whether it was a daemon that was killed."""


@dataclass
class Book:
    """One platform's places; no text comes twice there."""

    idempotent: bool
    """Whether the platform shows what is sent twice only once."""
    grows: Callable[[str], bool] = lambda _: False
    """Whether the agent of a place is the one that takes its time."""
    said: dict[str, Said] = field(default_factory=dict)
    """By name, what the gateway has to answer, in the order in which the platform took it."""
    refused: dict[str, Said] = field(default_factory=dict)
    """By name, what it must not answer."""
    shown: list[Shown] = field(default_factory=list)
    """What people see of the gateway, of each place in its order."""
    told: list[tuple[str, str]] = field(default_factory=list)
    """What people were told at once, and where."""
    dead: set[str] = field(default_factory=set)
    """Names of messages whose replies were given up in doubt: nobody knows whether they are shown,
    nor whether their repeats are."""
    breaks: list[Break] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """What the platform itself has to object to."""

    def accept(self, place: str, name: str, text: str, at: datetime) -> None:
        """Take note of a message that has to be answered."""
        self.said[name] = Said(place, name, text, at)

    def refuse(self, place: str, name: str, text: str, at: datetime) -> None:
        """Take note of a message that must not be answered."""
        self.refused[name] = Said(place, name, text, at)

    def show(self, place: str, shown_id: str, answers: str, text: str, at: datetime) -> None:
        """Take note of what people see."""
        self.shown.append(Shown(place, shown_id, answers, at, [text]))

    def edit(self, shown_id: str, text: str) -> None:
        """Take note that a message reads otherwise."""
        for one in self.shown:
            if one.shown_id == shown_id:
                one.reads.append(text)

    def clear(self) -> None:
        """Forget what was said and shown, to be told all of it anew."""
        self.said.clear()
        self.refused.clear()
        self.shown.clear()
        self.told.clear()

    def texts(self) -> dict[str, list[str]]:
        """Return what has to be answered, by place."""
        found = defaultdict(list)
        for said in self.said.values():
            found[said.place].append(said.text)
        return found

    def answers(self) -> dict[str, list[str]]:
        """Return what was answered to that, as sessions hold it: without what marks a repeat."""
        finals = self._finals()
        found = defaultdict(list)
        for said in self.said.values():
            final = finals.get(said.name)
            found[said.place].append(answer_to(said.text) if final is None else _plain(final))
        return found

    def owed(self) -> int:
        """Return how many answers are still to come."""
        return len(list(self.owing()))

    def owing(self) -> Iterator[str]:
        """Yield the place of each message whose answer is still to come."""
        for name in self.said.keys() - self._finals().keys() - self.dead:
            yield self.said[name].place

    def repeats(self) -> int:
        """Return how many answers were shown marked as what may be a repeat."""
        return sum(one.text.startswith(REPEAT) for one in self.shown)

    def grown(self) -> int:
        """Return how many answers have grown."""
        return sum(len(one.reads) > 1 for one in self._finals().values())

    def left(self) -> int:
        """Return how many parts stand beside their answers, for something broke."""
        return sum(not self._is_whole(one) for one in self.shown)

    def given_up(self) -> int:
        """Return how many messages were given up, for they were cut off twice."""
        return sum(_plain(one) == GIVEN_UP for one in self._finals().values())

    def violations(self) -> Iterator[str]:
        """Yield what is not as it must be, once nothing is owed any more."""
        yield from self.faults
        for place, text in self.told:
            if WAITS not in text:
                yield f"{place}: people were told {text!r}"
        by_name = self._by_name()
        for name in by_name.keys() - self.said.keys():
            for one in by_name[name]:
                yield from self._uncalled_for(one)
        for said in self.said.values():
            yield from self._of(said, by_name.get(said.name, []))
        yield from self._out_of_order()

    def _uncalled_for(self, one: Shown) -> Iterator[str]:
        asked = self.refused.get(one.answers)
        if asked is None:
            yield f"{one.place}: shows {one.text!r}, which answers nothing that was accepted"
        else:
            yield f"{one.place}: {asked.text!r} was not to be answered, and was by {one.text!r}"

    def _of(self, said: Said, shown: list[Shown]) -> Iterator[str]:
        """Yield what is wrong with what was shown for one message."""
        here = f"{said.place}: {said.text!r}"
        if said.name in self.dead:
            doubts = [one for one in self.breaks if said.at <= one.down]
            if len(doubts) < CUTS:
                yield f"{here} has a dead letter for an answer, though {len(doubts)} things broke"
        elif not shown:
            yield f"{here} was not answered"
        if shown:
            yield from self._of_shown(said, shown)

    def _of_shown(self, said: Said, shown: list[Shown]) -> Iterator[str]:
        here, wanted = f"{said.place}: {said.text!r}", answer_to(said.text)
        for one in shown:
            if one.place != said.place:
                yield f"{here} was answered in {one.place} by {one.text!r}"
            if not _grows(one.reads):
                yield f"{here} was answered by a message that read {one.reads}"
        yield from self._of_last(said, shown)
        seen = [one.text for one in shown]
        for one, after in pairwise(shown):
            # Before a marked repeat may stand what it repeats, before any a part that was left.
            doubted = after is shown[-1] and _is_marked(after) and one.text == _plain(after)
            left = self.grows(said.place) and wanted.startswith(one.text)
            if not (doubted or left):
                yield f"{here} was answered more often than it may be: {seen}"
            elif not self._broke(one.at, after.at):
                yield f"{here} was answered more than once, though nothing broke: {seen}"

    def _of_last(self, said: Said, shown: list[Shown]) -> Iterator[str]:
        """Yield what is wrong with the message that has to be the whole answer."""
        here, wanted = f"{said.place}: {said.text!r}", answer_to(said.text)
        seen, last = [one.text for one in shown], shown[-1]
        if _plain(last) == GIVEN_UP:
            kills = [one for one in self.breaks if one.kills and said.at <= one.begin <= last.at]
            if len(kills) < CUTS:
                yield f"{here} was given up after {len(kills)} kills: {seen}"
        elif _plain(last) != wanted:
            yield f"{here} was answered by {seen}, not by {wanted!r}"
        if self.idempotent and _is_marked(last):
            yield f"{here} was answered by {seen}, marked as a repeat where none can be"

    def _broke(self, begin: datetime, end: datetime) -> bool:
        """Return whether anything broke meanwhile."""
        return any(one.begin <= end and begin <= one.down for one in self.breaks)

    def _out_of_order(self) -> Iterator[str]:
        places = {id(one): number for number, one in enumerate(self.shown)}
        firsts = {name: places[id(one)] for name, one in self._firsts().items()}
        latest: dict[str, Said] = {}
        for said in self.said.values():
            if said.name not in firsts:
                continue
            before = latest.get(said.place)
            if before is not None and firsts[said.name] < firsts[before.name]:
                yield f"{said.place}: {said.text!r} was answered before {before.text!r}"
            else:
                latest[said.place] = said

    def _by_name(self) -> dict[str, list[Shown]]:
        found = defaultdict(list)
        for one in self.shown:
            found[one.answers].append(one)
        return found

    def _finals(self) -> dict[str, Shown]:
        """Return the last whole answer to each message."""
        found = {}
        for one in self.shown:
            if self._is_whole(one):
                found[one.answers] = one
        return found

    def _firsts(self) -> dict[str, Shown]:
        """Return the last whole answer to each message, or what it repeats."""
        found = self._finals()
        for name, shown in self._by_name().items():
            if name in found and _is_marked(found[name]):
                found[name] = next(one for one in shown if self._is_whole(one))
        return found

    def _is_whole(self, one: Shown) -> bool:
        said = self.said.get(one.answers)
        return said is not None and _plain(one) in {answer_to(said.text), GIVEN_UP}


def _is_marked(one: Shown) -> bool:
    return one.text.startswith(REPEAT)


def _plain(one: Shown) -> str:
    return one.text.removeprefix(REPEAT)


def _grows(reads: list[str]) -> bool:
    """Return whether each text goes on as the one before it began."""
    plain = [text.removeprefix(REPEAT) for text in reads]
    return all(after.startswith(before) for before, after in pairwise(plain))
