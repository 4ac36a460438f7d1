"""What every channel keeps by itself, tried on each platform there is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest

from gateway.access.deciding import Standing, standing
from gateway.access.settings import AccessSettings, PlatformAccess
from gateway.channels.attachments import described
from gateway.channels.base import NotConnectedError, Outbound, SendError
from gateway.model import AgentId, Attachment, AttachmentKind, Change, ChatType
from gateway.sessions.key import parse_key, session_key
from gateway.sessions.settings import SessionSettings
from tests.contract.base import Ability, Written
from tests.contract.platforms import PLATFORMS
from tests.contract.running import acknowledged, running

if TYPE_CHECKING:
    from gateway.model import SessionSource
    from tests.contract.base import Platform


def outbound(platform: Platform, text: str = "hi", delivery_id: str = "t-1") -> Outbound:
    return Outbound(platform.source(Written("m")), text, delivery_id)


def ids(source: SessionSource) -> SessionSource:
    """Return a source without names, which people choose."""
    return replace(source, user_name="", chat_name="")


@pytest.mark.parametrize("name", PLATFORMS)
def test_what_a_platform_lacks_is_said_of_abilities_there_are_and_why(name: str) -> None:
    lacks = PLATFORMS[name][0].lacks

    assert set(lacks) <= set(Ability)
    assert all(lacks.values())


async def test_what_a_channel_does_not_do_its_platform_lacks(platform: Platform) -> None:
    assert platform.channel.edits != (Ability.GROWS in platform.lacks)
    assert (platform.channel.typing_s > 0) != (Ability.TYPING in platform.lacks)
    assert platform.channel.edit_interval_s > 0
    assert platform.channel.max_text_chars >= 256


async def test_messages_come_in_order_and_name_their_channel(platform: Platform) -> None:
    async with running(platform) as gateway:
        for number in range(5):
            await platform.write(Written(f"m{number}", f"text {number}"))
        await acknowledged(platform, 5)

    assert [one.text for one in gateway.received] == [f"text {n}" for n in range(5)]
    assert len({one.message_id for one in gateway.received}) == 5
    assert {(one.source.platform, one.source.account) for one in gateway.received} == {
        (platform.channel.platform, platform.channel.account)
    }
    assert {one.change for one in gateway.received} == {Change.NEW}


async def test_a_direct_chat_is_the_senders_own_session(platform: Platform) -> None:
    said = [Written("m1"), Written("m2", person="bob"), Written("m3")]
    async with running(platform) as gateway:
        for written in said:
            await platform.write(written)
        await acknowledged(platform, 3)

    sources = [ids(one.source) for one in gateway.received]
    keys = [session_key(one, AgentId("main"), SessionSettings()) for one in sources]
    assert sources == [platform.source(written) for written in said]
    assert {one.chat_type for one in sources} == {ChatType.DM}
    assert keys[0] == keys[2] != keys[1]
    assert parse_key(keys[0]).account == platform.channel.account


@pytest.mark.needs(Ability.GROUPS)
async def test_in_a_group_everybody_has_a_session(platform: Platform) -> None:
    said = [
        Written("m1", chat="club"),
        Written("m2", chat="club", person="bob"),
        Written("m3", chat="team"),
        Written("m4"),
    ]
    async with running(platform) as gateway:
        for written in said:
            await platform.write(written)
        await acknowledged(platform, 4)

    sources = [ids(one.source) for one in gateway.received]
    assert sources == [platform.source(written) for written in said]
    assert [one.chat_type for one in sources[:3]] == [ChatType.GROUP] * 3
    keys = {session_key(one, AgentId("main"), SessionSettings()) for one in sources}
    assert len(keys) == 4


@pytest.mark.needs(Ability.THREADS)
async def test_a_thread_is_one_session_of_all_in_it(platform: Platform) -> None:
    said = [
        Written("m1", chat="club", thread="t1"),
        Written("m2", chat="club", thread="t1", person="bob"),
        Written("m3", chat="club", thread="t2"),
        Written("m4", chat="club"),
    ]
    async with running(platform) as gateway:
        for written in said:
            await platform.write(written)
        await acknowledged(platform, 4)

    sources = [ids(one.source) for one in gateway.received]
    keys = [session_key(one, AgentId("main"), SessionSettings()) for one in sources]
    assert sources == [platform.source(written) for written in said]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


@pytest.mark.needs(Ability.GROUPS)
@pytest.mark.needs(Ability.NAMES)
async def test_a_message_of_a_group_says_whether_it_names_us_and_reads_without_our_name(
    platform: Platform,
) -> None:
    said = [
        Written("m1", "one", chat="club", named=False),
        Written("m2", "two", chat="club"),
        Written("m3", "three", chat="club", thread="t1", named=False),
        Written("m4", "/four", chat="club", named=False),
        Written("m5", "five"),
    ]
    async with running(platform) as gateway:
        for written in said:
            await platform.write(written)
        await acknowledged(platform, 5)

    assert [one.named for one in gateway.received] == [False, True, False, True, True]
    assert [one.text for one in gateway.received] == ["one", "two", "three", "/four", "five"]


async def test_the_sender_is_whom_the_lists_name(platform: Platform) -> None:
    async with running(platform) as gateway:
        await platform.write(Written("m1"))
        await platform.write(Written("m2", person="bob"))
        await acknowledged(platform, 2)

    ann, bob = (one.source for one in gateway.received)
    listed = PlatformAccess(allow_users=[platform.source(Written("m")).user_id])
    settings = AccessSettings(platforms={platform.channel.platform: listed})
    assert standing(ann, settings, is_paired=False) is Standing.ALLOWED
    assert standing(bob, settings, is_paired=False) is Standing.STRANGER


async def test_a_message_is_acknowledged_only_once_it_is_stored(platform: Platform) -> None:
    async with running(platform, gate_open=False) as gateway:
        await platform.write(Written("m1"))
        with anyio.fail_after(platform.patience_s):
            while not gateway.asked:
                await anyio.wait_all_tasks_blocked()
        early = list(platform.people.acknowledged)
        gateway.gate.set()
        await acknowledged(platform, 1)

    assert early == []


@pytest.mark.needs(Ability.REPEATS)
async def test_a_message_that_could_not_be_stored_comes_again(platform: Platform) -> None:
    async with running(platform) as gateway:
        gateway.troubles = 2
        await platform.write(Written("m1", "hello"))
        await acknowledged(platform, 1)

    assert [one.text for one in gateway.received] == ["hello"]


@pytest.mark.needs(Ability.REPEATS)
async def test_a_stop_loses_nothing_that_was_not_stored(platform: Platform) -> None:
    async with running(platform, gate_open=False) as stopped:
        await platform.write(Written("m1", "one"))
        with anyio.fail_after(platform.patience_s):
            while not stopped.asked:
                await anyio.wait_all_tasks_blocked()
    early = list(platform.people.acknowledged)
    async with running(platform) as gateway:
        await platform.write(Written("m2", "two"))
        await acknowledged(platform, 2)

    assert early == []
    assert stopped.received == []
    assert [one.text for one in gateway.received] == ["one", "two"]


async def test_a_message_handed_over_twice_has_one_id(platform: Platform) -> None:
    async with running(platform) as gateway:
        await platform.write(Written("m1"))
        await acknowledged(platform, 1)
        await platform.repeat("m1")
        await acknowledged(platform, 2)

    first, second = gateway.received
    assert (first.message_id, ids(first.source)) == (second.message_id, ids(second.source))


@pytest.mark.needs(Ability.EDITED)
async def test_an_edit_names_the_message_and_reads_as_it_reads_now(platform: Platform) -> None:
    async with running(platform) as gateway:
        await platform.write(Written("m1", "one"))
        await platform.write(Written("m1", "two", change=Change.EDITED))
        await acknowledged(platform, 2)

    first, edit = gateway.received
    assert (edit.change, edit.text) == (Change.EDITED, "two")
    assert (edit.message_id, ids(edit.source)) == (first.message_id, ids(first.source))


@pytest.mark.needs(Ability.RETRACTED)
async def test_a_retraction_names_the_message_and_says_nothing(platform: Platform) -> None:
    async with running(platform) as gateway:
        await platform.write(Written("m1", "one"))
        await platform.write(Written("m1", change=Change.RETRACTED))
        await acknowledged(platform, 2)

    first, retraction = gateway.received
    assert (retraction.change, retraction.text) == (Change.RETRACTED, "")
    assert (retraction.message_id, ids(retraction.source)) == (first.message_id, ids(first.source))


@pytest.mark.needs(Ability.ATTACHMENTS)
async def test_what_is_sent_beside_a_text_is_described(platform: Platform) -> None:
    file = Attachment(AttachmentKind.FILE, "application/pdf", "plan [1].pdf", 2_345)
    async with running(platform) as gateway:
        await platform.write(Written("m1", "look", attachments=(file,)))
        await platform.write(Written("m2", "", attachments=(file,)))
        await acknowledged(platform, 2)

    assert [one.text for one in gateway.received] == ["look", ""]
    for one in gateway.received:
        assert [described(it) for it in one.attachments] == [
            '[file: "plan _1_.pdf", application/pdf, 2.3 kB; not fetched]'
        ]


async def test_what_is_sent_is_shown_and_has_an_id(platform: Platform) -> None:
    async with running(platform):
        sent = [
            await platform.channel.send(outbound(platform, text, f"t-{text}"))
            for text in ("one", "two")
        ]

    assert [(one.place, one.text) for one in platform.people.shown] == [
        ("ann", "one"),
        ("ann", "two"),
    ]
    assert sent == [one.shown_id for one in platform.people.shown]
    assert len(set(sent)) == 2


@pytest.mark.needs(Ability.THREADS)
async def test_what_is_sent_to_a_thread_is_shown_in_it(platform: Platform) -> None:
    target = platform.source(Written("m1", chat="club", thread="t1"))
    async with running(platform):
        await platform.write(Written("m1", chat="club", thread="t1"))
        await acknowledged(platform, 1)
        await platform.channel.send(Outbound(target, "here", "t-1"))

    assert [one.place for one in platform.people.shown] == ["club/t1"]


async def test_the_longest_text_is_shown_whole(platform: Platform) -> None:
    longest = platform.channel.max_text_chars
    text = ("ü😀\n" * longest)[: longest - 1] + "."
    async with running(platform):
        await platform.channel.send(outbound(platform, text))

    assert [one.text for one in platform.people.shown] == [text]


NASTY = "a < b & c > d; <b>bold</b> <script>x</script> @everyone @room @here @all <!channel>"


async def test_what_is_no_markdown_reads_as_it_is(platform: Platform) -> None:
    async with running(platform):
        await platform.channel.send(outbound(platform, NASTY))
        await platform.channel.send(replace(outbound(platform, NASTY, "t-2"), plain=True))

    assert [one.text for one in platform.people.shown] == [NASTY] * 2


@pytest.mark.needs(Ability.NOTIFIES)
async def test_nothing_in_a_text_notifies_all_or_whom_a_link_names(platform: Platform) -> None:
    person = "matrix:u/ann:example.org matrix.to/#/@ann:example.org @ann:example.org"
    links = f"**@room** [ann](tg://user?id=7) [](tg://user?id=8) <tg://user?id=9> {person}"
    texts = [links, f'{NASTY} <a href="tg://user?id=7">ann</a>', f"**{NASTY}** {links}"]
    async with running(platform):
        for number, text in enumerate(texts):
            shown_id = await platform.channel.send(outbound(platform, text, f"t-{number}"))
            again = outbound(platform, f"{text} {links}", f"e-{number}")
            if platform.channel.edits:
                await platform.channel.edit(again, shown_id)
            await platform.channel.send(replace(again, delivery_id=f"p-{number}", plain=True))

    shown = [one.notifies_all for one in platform.people.shown]
    assert shown == [False] * 2 * len(texts)


async def test_plain_text_reads_as_it_is(platform: Platform) -> None:
    marks = "use *this* with _that_ `x` [y](https://example.org) # z ~~w~~ ||v|| &lt;"
    text = f"{marks}\n1. one\n\n    two"
    async with running(platform):
        await platform.channel.send(replace(outbound(platform, text), plain=True))

    assert [one.text for one in platform.people.shown] == [text]


@pytest.mark.needs(Ability.MARKUP)
async def test_markdown_is_rendered_and_all_else_escaped(platform: Platform) -> None:
    text = "**bold** and `a < b`\n\n```python\nif a < b & c:\n    pass\n```\n\n<u>@room</u> 1 < 2"
    async with running(platform):
        await platform.channel.send(outbound(platform, text))

    (shown,) = platform.people.shown
    assert "bold and a < b" in shown.text
    assert "if a < b & c:\n    pass" in shown.text
    assert "<u>@room</u> 1 < 2" in shown.text
    assert "**" not in shown.text
    assert "```" not in shown.text


@pytest.mark.needs(Ability.GROWS)
async def test_an_edit_changes_what_is_shown_and_shows_nothing_new(platform: Platform) -> None:
    async with running(platform):
        shown_id = await platform.channel.send(outbound(platform, "one"))
        for number, text in enumerate(("one two", "one two", "three")):
            again = outbound(platform, text, f"t-1.{number}")
            await platform.channel.edit(again, shown_id)

    (shown,) = platform.people.shown
    assert shown.text == "three"
    assert shown.shown_id == shown_id


@pytest.mark.needs(Ability.GROWS)
@pytest.mark.needs(Ability.BUSY)
async def test_an_edit_that_fails_says_whether_to_try_again(platform: Platform) -> None:
    told = []
    async with running(platform):
        shown_id = await platform.channel.send(outbound(platform, "one"))
        platform.people.next_answers = ["refused", "busy"]
        for number in range(2):
            again = outbound(platform, "a secret", f"t-1.{number}")
            with pytest.raises(SendError) as caught:
                await platform.channel.edit(again, shown_id)
            told.append(caught.value)

    assert [(one.retryable, one.retry_after_s) for one in told] == [(False, None), (True, 7.0)]
    assert "secret" not in str(told)


@pytest.mark.needs(Ability.TYPING)
async def test_that_an_answer_is_made_is_shown(platform: Platform) -> None:
    async with running(platform):
        await platform.channel.show_typing(platform.source(Written("m")))
        with anyio.fail_after(platform.patience_s):
            while not platform.people.typing:
                await platform.people.changed.wait()

    assert platform.people.typing == ["ann"]


async def test_the_same_delivery_is_shown_once_where_a_channel_says_so(platform: Platform) -> None:
    async with running(platform):
        for _ in range(2):
            await platform.channel.send(outbound(platform))

    assert len(platform.people.shown) == (1 if platform.channel.idempotent else 2)


async def test_a_refusal_is_for_good(platform: Platform) -> None:
    async with running(platform):
        platform.people.next_answers = ["refused"]
        with pytest.raises(SendError) as caught:
            await platform.channel.send(outbound(platform, "a secret"))

    assert (caught.value.retryable, caught.value.ambiguous) == (False, False)
    assert "secret" not in str(caught.value)
    assert platform.people.shown == []


@pytest.mark.needs(Ability.BUSY)
async def test_a_busy_platform_says_how_long_to_leave_it_alone(platform: Platform) -> None:
    async with running(platform):
        platform.people.next_answers = ["busy"]
        with pytest.raises(SendError) as caught:
            await platform.channel.send(outbound(platform))

    assert (caught.value.retryable, caught.value.ambiguous) == (True, False)
    assert caught.value.retry_after_s == 7.0
    assert platform.people.shown == []


@pytest.mark.needs(Ability.LOSS)
async def test_a_connection_that_breaks_leaves_a_doubt(platform: Platform) -> None:
    async with running(platform):
        platform.people.next_answers = ["lost"]
        with pytest.raises(SendError) as caught, anyio.fail_after(platform.patience_s):
            await platform.channel.send(outbound(platform))

    assert (caught.value.retryable, caught.value.ambiguous) == (True, True)
    assert not isinstance(caught.value, NotConnectedError)


async def test_a_platform_that_is_away_is_told_as_such_and_is_there_again(
    platform: Platform,
) -> None:
    with pytest.raises(NotConnectedError), anyio.fail_after(platform.patience_s):
        await platform.channel.send(outbound(platform))
    async with running(platform):
        await platform.channel.send(outbound(platform))

    assert len(platform.people.shown) == 1


async def test_a_channel_runs_again_after_it_was_stopped(platform: Platform) -> None:
    for number in range(2):
        async with running(platform) as gateway:
            await platform.write(Written(f"m{number}"))
            await acknowledged(platform, number + 1)

        assert len(gateway.received) == 1
