"""What becomes of messages of a group that name nobody of ours."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from gateway.access.settings import AccessSettings, PlatformAccess
from gateway.channels.base import Receipt
from gateway.model import ChatType, Inbound
from tests.support.approving import Mailer, question_of
from tests.support.commands import open_door, source_of
from tests.support.turns import PlayedAgent, echo, reply_of

if TYPE_CHECKING:
    from pathlib import Path

ANN = source_of(
    platform="bridge", account="one", chat_id="club", chat_type=ChatType.GROUP, user_id="7"
)
BOB = replace(ANN, user_id="8")
LISTED = AccessSettings(platforms={"bridge": PlatformAccess(allow_users=["7", "8"])})
UNTAKEN = Receipt(accepted=False)


@pytest.mark.parametrize("user_id", ["7", "666", ""], ids=["allowed", "stranger", "nobody"])
async def test_whoever_wrote_it_it_leaves_no_trace_but_a_number(
    tmp_path: Path, user_id: str
) -> None:
    agent = PlayedAgent(echo)
    said = Inbound(replace(ANN, user_id=user_id), "hello", "m1", named=False)
    async with open_door(tmp_path / "s", agent, access=LISTED) as bench:
        with capture_logs() as logs:
            receipts = [await bench.door.receive(said) for _ in range(2)]
        statistics = bench.access.statistics()
        entries = bench.turns.state.store.entries()
        turns = bench.turns.turns.statistics()

    assert receipts == [UNTAKEN, UNTAKEN]
    assert (entries, logs, turns.completed, agent.contexts) == ([], [], 0, [])
    assert (statistics.admitted, statistics.strangers) == (0, {"not_named": 2})


async def test_an_answer_to_a_question_needs_no_name(tmp_path: Path) -> None:
    mailer = Mailer()
    async with open_door(tmp_path / "s", mailer.looped.agent, access=LISTED) as bench:
        ticket = await bench.door.submit(Inbound(ANN, "mail", "m1"))
        question = await question_of(ticket)
        yes = f"yes {question.number}"
        early = [
            await bench.door.receive(Inbound(source, text, f"m-{text}", named=False))
            for source, text in ((ANN, "well"), (BOB, yes), (ANN, ""), (ANN, "x" * 1_000_000))
        ]
        ran = list(mailer.ran)
        answered = await bench.door.receive(Inbound(ANN, yes, "m2", named=False))
        reply = await reply_of(ticket)
        late = await bench.door.receive(Inbound(ANN, yes, "m3", named=False))

    assert early == [UNTAKEN] * 4
    assert (ran, answered.accepted, mailer.ran) == ([], True, ["send"])
    assert reply.status == "ok"
    assert late == UNTAKEN
