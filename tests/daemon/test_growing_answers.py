"""Answers that grow in their chat by edits, of a real daemon that is killed amid that."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from tests.support.bridge import bridged_daemon, owed, until_owed
from tests.support.loopback import short_directory

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.bridge import Bridge

WORDS: Final = 40
WHOLE: Final = " ".join(f"w{number}" for number in range(WORDS))
HELD: Final = (10, 20, 30)
PROGRAM: Final = f"""
import json, os, sys, time

def say(**line):
    print(json.dumps(line), flush=True)

sys.stdin.readline()
for number in range({WORDS}):
    say(type="text", text=" " * (number > 0) + f"w{{number}}")
    time.sleep(0.05)
    while number in {HELD} and not os.path.exists(f"{{sys.argv[1]}}/w{{number}}"):
        time.sleep(0.05)
say(type="done")
"""
"""Says its words one by one; at some it waits for a file of their name."""


def config(go_on: Path) -> str:
    """Return what follows the channel's table: it edits, and a program answers."""
    argv = orjson.dumps([sys.executable, "-I", "-S", "-c", PROGRAM, str(go_on)]).decode()
    return f'edits = true\nedit_interval_s = 0.1\n[agents.main]\nkind = "command"\nargv = {argv}\n'


def let_go_on(folder: Path, *numbers: int) -> None:
    for number in numbers:
        (folder / f"w{number}").touch()


def grows(texts: list[str]) -> bool:
    """Return whether each text begins as the one before did, and the last is the whole."""
    steps = all(after.startswith(before) for before, after in pairwise(texts))
    return steps and texts[-1] == WHOLE


async def test_an_answer_grows_in_one_message(tmp_path: Path) -> None:
    async with bridged_daemon(config(tmp_path)) as (daemon, people):
        await people.write("go")
        for number in HELD:
            await people.until(_reads_to(people, number))
            let_go_on(tmp_path, number)
        await until_owed(daemon, 1, "sent")
        shown, edits = list(people.shown), list(people.edits)

    assert [line["text"] for line in shown] == [WHOLE]
    assert not shown[0]["repeat"]
    assert len(edits) > 1
    assert grows([line["text"] for line in edits])


async def test_the_whole_is_shown_once_after_a_kill_amid_growing() -> None:
    with short_directory() as made:
        folder = Path(made)
        let_go_on(folder, *HELD[:-1])
        async with bridged_daemon(config(folder), folder=folder) as (daemon, people):
            await people.write("go")
            await people.until(_reads_to(people, HELD[-1]))
            await daemon.kill()
            (begun,) = people.shown
        let_go_on(folder, HELD[-1])
        async with bridged_daemon(config(folder), folder=folder) as (daemon, people):
            await until_owed(daemon, 1, "sent")
            after = [line["text"] for line in people.shown]
            repeats = [line["repeat"] for line in people.shown]
            left = await owed(daemon)
            said = await daemon.said("agent:main:loopback:lo:dm:ann::")

    # What had grown stays as it was; the answer comes in a message of its own, by edits or at once.
    assert WHOLE.startswith(begun["text"])
    assert begun["text"] != WHOLE
    assert after == [WHOLE]
    assert repeats == [False]
    assert left == []
    assert said == [("user", "go"), ("assistant", WHOLE)]


async def test_a_kill_between_the_answer_and_its_last_edit_shows_it_once() -> None:
    with short_directory() as made:
        folder = Path(made)
        settings = config(folder)
        async with bridged_daemon(settings, folder=folder) as (daemon, people):
            await people.write("go")
            await people.until(_reads_to(people, HELD[0]))
            let_go_on(folder, HELD[0])
            await people.until(_reads_to(people, HELD[1]))
            # No edit is confirmed any more, so that the reply stays owed when it is made.
            people.confirms_edits = False
            let_go_on(folder, *HELD[1:])
            (reply,) = await until_owed(daemon, 1)
            await daemon.kill()
        async with bridged_daemon(settings, folder=folder) as (daemon, people):
            await until_owed(daemon, 1, "sent")
            shown = list(people.shown)

    assert len(shown) == 1
    assert shown[0]["deliver"].startswith(reply["id"])
    assert shown[0]["text"].endswith(WHOLE)


def _reads_to(people: Bridge, number: int) -> Callable[[], bool]:
    """Return what tells whether the message in the chat ends with a word."""
    return lambda: any(line["text"].endswith(f"w{number}") for line in people.shown)
