"""The laws of the book: each finds what is planted against it, and names where and which."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import pytest

from gateway.channels.base import REPEAT
from gateway.turns.running import GIVEN_UP
from tests.everywhere.book import WAITS, Book, Break
from tests.everywhere.growing import SLOWLY, answer_to

if TYPE_CHECKING:
    from collections.abc import Callable

START: Final = datetime(2026, 11, 21, 12, tzinfo=UTC)
SLOW: Final = f"two {SLOWLY}"
WHOLE: Final = answer_to(SLOW)
PART: Final = WHOLE[: len(WHOLE) // 2]


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def book_of(*, idempotent: bool = False, broke: bool = False, kills: int = 0) -> Book:
    """Return a book in which a group was told `one`, and a thread of it what takes its time."""
    book = Book(idempotent=idempotent, grows=lambda place: place == "g/t")
    book.accept("g", "m1", "one", at(0))
    book.accept("g/t", "m2", SLOW, at(0))
    book.refuse("g", "m3", "from a stranger", at(0))
    if broke:
        book.breaks.append(Break(at(1.5), at(1.8), kills=False))
    book.breaks += [Break(at(one / 10), at(one / 10), kills=True) for one in range(kills)]
    return book


def whole(book: Book) -> None:
    book.show("g", "s1", "m1", "one", at(1))
    book.show("g/t", "s2", "m2", WHOLE, at(1))


def in_the_group(book: Book) -> None:
    book.show("g", "s1", "m1", "one", at(1))
    book.show("g", "s2", "m2", WHOLE, at(1))


def to_a_stranger(book: Book) -> None:
    whole(book)
    book.show("g", "s3", "m3", "from a stranger", at(1))


def to_nobody(book: Book) -> None:
    whole(book)
    book.show("g", "s3", "", "one", at(1))


def not_at_all(book: Book) -> None:
    book.show("g", "s1", "m1", "one", at(1))


def in_part(book: Book) -> None:
    not_at_all(book)
    book.show("g/t", "s2", "m2", PART, at(1))


def otherwise(book: Book) -> None:
    not_at_all(book)
    book.show("g/t", "s2", "m2", "else", at(1))


def twice(book: Book) -> None:
    whole(book)
    book.show("g", "s3", "m1", "one", at(2))


def a_part_and_whole(book: Book) -> None:
    book.show("g/t", "s3", "m2", PART, at(1))
    book.show("g", "s1", "m1", "one", at(2))
    book.show("g/t", "s2", "m2", WHOLE, at(2))


def marked(book: Book) -> None:
    whole(book)
    book.show("g", "s3", "m1", f"{REPEAT}one", at(2))


def marked_twice(book: Book) -> None:
    marked(book)
    book.show("g", "s4", "m1", f"{REPEAT}one", at(3))


def given_up(book: Book) -> None:
    not_at_all(book)
    book.show("g/t", "s2", "m2", GIVEN_UP, at(1))


def buried(book: Book) -> None:
    not_at_all(book)
    book.dead.add("m2")


def shrunk(book: Book) -> None:
    not_at_all(book)
    book.show("g/t", "s2", "m2", PART, at(1))
    book.edit("s2", "two")
    book.edit("s2", WHOLE)


def told(book: Book) -> None:
    whole(book)
    book.told.append(("g", "You may not write here."))


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        (in_the_group, f"g/t: {SLOW!r} was answered in g by {WHOLE!r}"),
        (to_a_stranger, "g: 'from a stranger' was not to be answered, and was by"),
        (to_nobody, "g: shows 'one', which answers nothing"),
        (not_at_all, f"g/t: {SLOW!r} was not answered"),
        (in_part, f"g/t: {SLOW!r} was answered by {[PART]}, not by"),
        (otherwise, f"g/t: {SLOW!r} was answered by ['else'], not by"),
        (twice, "g: 'one' was answered more often than it may be: ['one', 'one']"),
        (a_part_and_whole, f"g/t: {SLOW!r} was answered more than once, though nothing broke"),
        (marked, "g: 'one' was answered more than once, though nothing broke"),
        (given_up, f"g/t: {SLOW!r} was given up after 0 kills"),
        (buried, f"g/t: {SLOW!r} has a dead letter for an answer, though 0 things broke"),
        (shrunk, f"g/t: {SLOW!r} was answered by a message that read"),
        (told, "g: people were told 'You may not write here.'"),
    ],
)
def test_what_is_planted_is_found_and_nothing_else(
    planted: Callable[[Book], None], found: str
) -> None:
    book = book_of()
    planted(book)

    (violation,) = book.violations()
    assert violation.startswith(found)


@pytest.mark.parametrize("planted", [twice, marked_twice])
def test_what_broke_excuses_no_answer_that_is_shown_twice_in_one_way(
    planted: Callable[[Book], None],
) -> None:
    book = book_of(broke=True)
    planted(book)

    assert any("more often" in one for one in book.violations())


@pytest.mark.parametrize("planted", [whole, a_part_and_whole, marked])
def test_what_broke_excuses_what_the_gateway_promises_then(
    planted: Callable[[Book], None],
) -> None:
    book = book_of(broke=True)
    planted(book)
    book.told.append(("g", f"1 message is{WAITS}"))

    assert list(book.violations()) == []
    assert book.owed() == 0


def test_a_platform_that_shows_once_what_is_sent_twice_shows_no_mark() -> None:
    book = book_of(broke=True, idempotent=True)
    marked(book)

    assert any("marked as a repeat where none can be" in one for one in book.violations())


def test_a_message_is_given_up_only_after_two_kills() -> None:
    once, often = book_of(kills=1), book_of(kills=2)
    for book in (once, often):
        given_up(book)

    assert any("given up after 1 kills" in one for one in once.violations())
    assert list(often.violations()) == []


def test_what_was_twice_in_doubt_may_be_dead_and_is_owed_no_more() -> None:
    book = book_of(kills=2)
    buried(book)

    assert list(book.violations()) == []
    assert book.owed() == 0


def test_answers_come_in_the_order_of_each_place_alone() -> None:
    book = book_of()
    book.accept("g", "m4", "three", at(0))
    book.show("g/t", "s2", "m2", WHOLE, at(1))
    book.show("g", "s4", "m4", "three", at(1))
    book.show("g", "s1", "m1", "one", at(1))

    assert list(book.violations()) == ["g: 'three' was answered before 'one'"]


def test_an_answer_that_is_edited_has_grown_and_is_owed_until_it_is_whole() -> None:
    book = book_of()
    book.show("g", "s1", "m1", "one", at(1))
    book.show("g/t", "s2", "m2", PART, at(1))
    assert book.owed() == 1

    book.edit("s2", WHOLE)
    assert book.owed() == 0
    assert (book.grown(), book.left()) == (1, 0)
    assert list(book.violations()) == []
    assert book.answers() == {"g": ["one"], "g/t": [WHOLE]}
