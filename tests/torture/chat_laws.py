"""Whether a gateway kept what it told a chat platform. Pure functions of a diary and of looks.

`check_look` holds at any moment, `check_quiet` once nothing is owed any more, `check_ends` of what
came after each end of a daemon.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from gateway.channels.base import REPEAT
from gateway.sessions.key import encode_part
from gateway.turns.running import GIVEN_UP
from tests.torture.agreement import check_stored
from tests.torture.diary import HTTP, Event, Shown, Taken, Written
from tests.torture.laws import Law, Violation
from tests.torture.look import Look

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.torture.look import Delivery

STOPPED: Final = "Not answered: this conversation was stopped."


@dataclass(frozen=True, slots=True)
class End:
    """A daemon that ended, and what it left."""

    moment: int
    """How many events there were by then, the end itself among them."""
    at: str
    look: Look


@dataclass(frozen=True, slots=True)
class Chats:
    """What was said where, and how it must have ended."""

    new: str = "bob"
    """The chat in which `/new` was said once."""
    before: tuple[str, ...] = ("one", "two")
    after: tuple[str, ...] = ("three",)
    stopped: str = "ann"
    """The chat whose turns were stopped, and which was resumed after it."""


def key_of(message: Written) -> str:
    """Return the session key of a message."""
    agent = "silent" if message.chat == "ann" else "echo"
    place = "http:" if message.platform == HTTP else f"{message.platform}:lo"
    return f"agent:{agent}:{place}:dm:{encode_part(message.chat)}::"


def check_look(events: Sequence[Event], look: Look) -> list[Violation]:
    """Return which laws are broken that hold whenever a daemon has ended."""
    return [
        *check_stored(look.stored),
        *_check_kept(events, look),
        *_check_written(events, look),
        *_check_shown(events, look),
        *_check_chats(events, look),
    ]


def check_quiet(
    events: Sequence[Event], look: Look, chats: Chats, *, may_die: bool = False
) -> list[Violation]:
    """Return which laws are broken that hold once nothing is owed any more.

    `may_die`: whether a reply may be given up, as one is of which twice nobody knew.
    """
    return [
        *_check_owed(look, may_die=may_die),
        *_check_answered(events, look),
        *_check_commands(events, look, chats),
    ]


def check_ends(
    events: Sequence[Event], ends: Sequence[End], *, idempotent: bool
) -> list[Violation]:
    """Return which laws are broken about what came after the end of each daemon."""
    violations = [*_check_use(events, ends)]
    for end, after in zip(ends, [*ends[1:], None], strict=True):
        until = len(events) if after is None else after.moment
        for event in events[end.moment : until]:
            delivery = end.look.deliveries.get(getattr(event, "delivery_id", ""))
            if isinstance(event, Shown) and delivery is not None:
                violations += _check_shown_again(event, delivery, idempotent=idempotent)
    if not idempotent:
        violations += _check_marks(events)
    return violations


def _check_kept(events: Sequence[Event], look: Look) -> Iterator[Violation]:
    """Everything that the gateway said it has is there."""
    for message_id in sorted({one.message_id for one in events if isinstance(one, Taken)}):
        if not look.has(message_id):
            yield Violation(Law.LOST, f"message {message_id}")


def _check_written(events: Sequence[Event], look: Look) -> Iterator[Violation]:
    """Everything that is there was written by somebody, and is there once, in its order."""
    written = {one.message_id: one for one in events if isinstance(one, Written)}
    stored = look.stored
    ids = [(one.key, one.message_id) for one in stored.inbox]
    ids += [(one.key, one.message_id) for one in stored.outbox]
    for key, message_id in ids:
        message = written.get(message_id)
        if message is None or key_of(message) != key:
            yield Violation(Law.UNATTEMPTED, f"message {message_id} of {key}")
    texts = {one.text: one for one in written.values() if not one.is_command}
    keys = {one.session_id: one.key for one in stored.conversations}
    said: dict[str, list[str]] = defaultdict(list)
    for row in stored.messages:
        if row.role == "user":
            said[keys.get(row.session_id, "")].append(row.text)
            if row.text not in texts:
                yield Violation(Law.UNATTEMPTED, f"a turn about {row.text!r}")
    for key, found in said.items():
        if len(set(found)) < len(found):
            yield Violation(Law.TWICE, f"{key}: {found}")
        wanted = [one.text for one in texts.values() if one.text in found]
        if list(dict.fromkeys(found)) != wanted:
            yield Violation(Law.ORDER, f"{key} said {wanted}, answered was {found}")


def _check_shown(events: Sequence[Event], look: Look) -> Iterator[Violation]:
    """What people saw is stored, and what counts as sent they saw."""
    seen: set[str] = set()
    for event in events:
        if not isinstance(event, Shown):
            continue

        seen.add(event.delivery_id)
        delivery = look.deliveries.get(event.delivery_id)
        if delivery is None:
            yield Violation(Law.UNCOMMITTED, f"reply to {event.reply_to}")
        elif event.text.removeprefix(REPEAT) != delivery.text:
            yield Violation(Law.REPLY, f"reply to {event.reply_to}: shown was {event.text!r}")
        elif (event.reply_to, event.chat) != (delivery.message_id, delivery.chat):
            yield Violation(Law.REPLY, f"reply to {delivery.message_id} in {delivery.chat}")
    for delivery in look.deliveries.values():
        if delivery.sent and delivery.delivery_id not in seen:
            yield Violation(Law.UNSHOWN, f"reply to {delivery.message_id}")


def _check_chats(events: Sequence[Event], look: Look) -> Iterator[Violation]:
    """The replies of a chat are shown in the order in which they were committed."""
    shown = list(dict.fromkeys(one.delivery_id for one in events if isinstance(one, Shown)))
    chats = {one.chat for one in look.deliveries.values()}
    for chat in sorted(chats):
        committed = [one for one in look.deliveries.values() if one.chat == chat]
        first_shown = [one for one in shown if one in {made.delivery_id for made in committed}]
        wanted = [one.delivery_id for one in committed if one.delivery_id in first_shown]
        if first_shown != wanted:
            yield Violation(Law.ORDER, f"{chat} was shown {first_shown}, committed were {wanted}")
        open_before = False
        for one in committed:
            if open_before and one.delivery_id in first_shown:
                yield Violation(Law.ORDER, f"{chat}: {one.message_id} went ahead of one owed")
            open_before |= not (one.dead or one.delivery_id in first_shown)


def _check_owed(look: Look, *, may_die: bool) -> Iterator[Violation]:
    for owed in look.stored.inbox:
        yield Violation(Law.OWED, f"message {owed.message_id} has no turn")
    for one in look.deliveries.values():
        if not one.sent and not (one.dead and may_die):
            yield Violation(Law.OWED, f"reply to {one.message_id}")


def _check_answered(events: Sequence[Event], look: Look) -> Iterator[Violation]:
    """Each message has one answer: of one turn, or, a command's, of none."""
    for message in dict.fromkeys(one for one in events if isinstance(one, Written)):
        replies, turns = look.replies(message.message_id), look.turns(message.text)
        if len(replies) != 1 or len(turns) != (not message.is_command):
            place = f"{message.message_id}: {len(replies)} replies, {len(turns)} turns"
            yield Violation(Law.LOST if not replies else Law.TWICE, place)
        elif not message.is_command and replies[0]["text"] not in _answers(message):
            yield Violation(Law.REPLY, f"{message.message_id}: {replies[0]['text']!r}")
    for event in events:
        if isinstance(event, Taken) and not event.accepted:
            yield Violation(Law.LOST, f"{event.message_id} was refused: {event.text}")


def _answers(message: Written) -> set[str]:
    """Return what may have been answered: Ann's agent says nothing, all others' say it again."""
    return {STOPPED, GIVEN_UP} if message.chat == "ann" else {message.text, GIVEN_UP}


def _check_commands(events: Sequence[Event], look: Look, chats: Chats) -> Iterator[Violation]:
    """`/new` began one conversation, `/stop` and `/resume` left the session as it was."""
    messages = [one for one in events if isinstance(one, Written)]
    keys = {one.chat: key_of(one) for one in messages}
    stored = look.stored
    for chat, key in keys.items():
        mine = [one.session_id for one in stored.conversations if one.key == key]
        wanted = 2 if chat == chats.new else 1
        if len(mine) != wanted:
            yield Violation(Law.COMMAND, f"{chat} has {len(mine)} conversations")
    if stored.entries[keys[chats.stopped]]["suspended_at"] is not None:
        yield Violation(Law.COMMAND, f"{chats.stopped} is paused")
    sessions = {row.text: row.session_id for row in stored.messages if row.role == "user"}
    current = stored.entries[keys[chats.new]]["session_id"]
    for text in chats.before:
        if sessions.get(text) == current:
            yield Violation(Law.COMMAND, f"{text!r} is in the new conversation")
    for text in chats.after:
        if sessions.get(text) != current:
            yield Violation(Law.COMMAND, f"{text!r} is not in the new conversation")


def _check_use(events: Sequence[Event], ends: Sequence[End]) -> Iterator[Violation]:
    """No session was used later than its last message was accepted."""
    accepted: dict[str, datetime] = {}
    for event in events:
        if isinstance(event, Taken):
            accepted.setdefault(event.message_id, datetime.fromisoformat(event.at))
    messages = {one.message_id: one for one in events if isinstance(one, Written)}
    for end in ends:
        at = datetime.fromisoformat(end.at)
        for message_id in messages:
            if end.look.has(message_id):
                accepted[message_id] = min(accepted.get(message_id, at), at)
    latest: dict[str, datetime] = {}
    for message in messages.values():
        if message.message_id in accepted:
            key, last = key_of(message), accepted[message.message_id]
            latest[key] = max(latest.get(key, last), last)
    entries = ends[-1].look.stored.entries
    for key, at in latest.items():
        used_at = datetime.fromisoformat(entries[key]["updated_at"]) if key in entries else at
        if used_at > at:
            yield Violation(Law.TOUCHED, f"{key}: used at {used_at}, last accepted at {at}")


def _check_shown_again(event: Shown, before: Delivery, *, idempotent: bool) -> Iterator[Violation]:
    """What a daemon left is shown as often as it must be, and says where it may be a repeat."""
    place = f"reply to {event.reply_to}"
    if before.sent:
        yield Violation(Law.REPEATED, f"{place}: known to be sent, and shown once more")
    elif event.repeat and not before.tried:
        yield Violation(Law.REPEATED, f"{place}: marked, though it was not tried before")
    elif before.tried and not event.repeat:
        yield Violation(Law.REPEATED, f"{place}: may have been sent, and is not marked")
    elif event.text.startswith(REPEAT) != (event.repeat and not idempotent):
        yield Violation(Law.REPEATED, f"{place}: its text says otherwise")


def _check_marks(events: Sequence[Event]) -> Iterator[Violation]:
    """Nothing is shown twice but with a mark, and never a third time."""
    shown: dict[str, list[Shown]] = defaultdict(list)
    for event in events:
        if isinstance(event, Shown):
            shown[event.delivery_id].append(event)
    for found in shown.values():
        if len(found) > 2 or any(not one.repeat for one in found[1:]):
            yield Violation(Law.REPEATED, f"reply to {found[0].reply_to}: {len(found)} times")
