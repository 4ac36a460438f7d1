"""Pairing under any history: strangers, right and wrong codes, time, revocations and restarts."""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hypothesis import settings as profile
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from structlog.testing import capture_logs
from typing_extensions import override

from gateway.access.deciding import Standing
from gateway.access.gate import Access
from gateway.access.pairing import Pairing
from gateway.access.records import ALPHABET
from gateway.access.settings import AccessSettings
from gateway.clock import FakeClock
from gateway.durable.database import Database
from gateway.errors import ConflictError, NotFoundError
from gateway.model import Inbound
from tests.access.people import CODE, somebody

if TYPE_CHECKING:
    import apsw

HOUR, TEN_MINUTES = timedelta(hours=1), timedelta(minutes=10)
TABLES: Final = ("pairing_requests", "pairing_locks", "paired_users")
IN_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the folder in it is private

Person = tuple[str, str]
"""One of our accounts, and who writes to it."""
PEOPLE: Final[list[Person]] = [(account, f"u{n}") for account in ("", "bot") for n in range(5)]


@dataclass(slots=True)
class Model:
    """What ought to be, told in the plainest way."""

    asked: dict[Person, tuple[datetime, str]] = field(default_factory=dict)
    """When somebody got the code that counts, and the code."""
    told: dict[Person, datetime] = field(default_factory=dict)
    paired: set[Person] = field(default_factory=set)
    failures: dict[str, int] = field(default_factory=dict)
    locked_until: dict[str, datetime] = field(default_factory=dict)

    def waiting(self, account: str, now: datetime) -> list[Person]:
        return [who for who, (at, _) in self.asked.items() if who[0] == account and now < at + HOUR]

    def is_locked(self, account: str, now: datetime) -> bool:
        return account in self.locked_until and now < self.locked_until[account]

    def fail(self, account: str, now: datetime) -> None:
        if account in self.locked_until:
            del self.locked_until[account]
            self.failures[account] = 0
        self.failures[account] = self.failures.get(account, 0) + 1
        if self.failures[account] == 5:
            self.locked_until[account] = now + HOUR


class PairingMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        place = str(IN_MEMORY) if os.access(IN_MEMORY, os.W_OK) else None
        self.folder = tempfile.TemporaryDirectory(prefix="gateway-pairing-", dir=place)
        self.path = Path(self.folder.name) / "gateway.db"
        self.runner = asyncio.Runner()
        self.clock = FakeClock()
        self.model = Model()
        self.codes: list[str] = []
        self.refused: dict[Person, datetime] = {}
        """When somebody was told last, since the start, that nobody can be paired."""
        self.logging = capture_logs()
        self.logs = self.logging.__enter__()
        self.open()

    def open(self) -> None:
        async def opened() -> None:
            self.stack = AsyncExitStack()
            self.database = await self.stack.enter_async_context(
                Database.open(self.path, self.clock)
            )
            self.pairing = await Pairing.load(self.database, self.clock)
            self.access = Access(AccessSettings(), self.pairing, self.clock)

        self.runner.run(opened())

    @override
    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()
        self.logging.__exit__(None, None, None)
        content = b"".join(one.read_bytes() for one in Path(self.folder.name).iterdir())
        self.folder.cleanup()
        for code in self.codes:
            assert code.encode() not in content
            assert code not in str(self.logs)

    @rule(person=st.sampled_from(PEOPLE))
    def write(self, person: Person) -> None:
        """Somebody writes in a direct chat."""
        now, model = self.clock.now(), self.model
        source = somebody(person[1], account=person[0])
        admission = self.runner.run(self.access.admit(Inbound(source, "hello")))
        found = CODE.search(admission.text or "")
        if person in model.paired:
            assert (admission.standing, admission.text) == (Standing.ALLOWED, None)
            return

        assert admission.standing is Standing.STRANGER
        waiting = model.waiting(person[0], now)
        if model.is_locked(person[0], now):
            assert found is None
            assert (admission.text is not None) == (
                person not in self.refused or now >= self.refused[person] + TEN_MINUTES
            )
            if admission.text:
                self.refused[person] = now
            return

        if person in waiting:
            assert found is None
            assert (admission.text is not None) == (now >= model.told[person] + TEN_MINUTES)
        else:
            assert (found is not None) == (len(waiting) < 3)
        if admission.text:
            model.told[person] = now
        if found:
            model.asked[person] = (now, found[1])
            self.codes.append(found[1])

    @rule(data=st.data(), named=st.booleans())
    def give_a_code_there_was(self, data: st.DataObject, *, named: bool) -> None:
        """Somebody approves a code that is, or once was, right."""
        if self.codes:
            self.give(data.draw(st.sampled_from(self.codes)), named=named)

    @rule(named=st.booleans())
    def give_a_wrong_code(self, *, named: bool) -> None:
        code = "".join(secrets.choice(ALPHABET) for _ in range(8))
        if code not in self.codes:
            self.give(code, named=named)

    def give(self, code: str, *, named: bool) -> None:
        now, model = self.clock.now(), self.model
        accounts = ["bot"] if named else ["", "bot"]
        meant = [account for account in accounts if model.waiting(account, now)]
        tried = [account for account in meant if not model.is_locked(account, now)]
        right = [
            who
            for account in tried
            for who in model.waiting(account, now)
            if model.asked[who][1] == code
        ]
        try:
            account = "bot" if named else ""
            paired = self.runner.run(self.pairing.approve(code, "telegram", account))
        except NotFoundError:
            assert not right
            assert tried or not meant
        except ConflictError:
            assert not right
            assert meant
            assert not tried
        else:
            assert right == [(paired.account, paired.user_id)]
            model.paired.add(right[0])
            del model.asked[right[0]]
            model.failures.pop(right[0][0], None)
            model.locked_until.pop(right[0][0], None)
            return

        for account in tried:
            model.fail(account, now)

    @rule(minutes=st.sampled_from([1, 9, 10, 30, 59, 60, 61]))
    def wait(self, minutes: int) -> None:
        self.runner.run(self.clock.advance(60 * minutes))

    @rule(person=st.sampled_from(PEOPLE))
    def revoke(self, person: Person) -> None:
        account, user_id = person
        there = {who for who in self.model.paired if who[1] == user_id and account in ("", who[0])}
        try:
            ended = self.runner.run(self.pairing.revoke("telegram", user_id, account))
        except NotFoundError:
            assert not there
        else:
            assert {(one.account, one.user_id) for one in ended} == there
            self.model.paired -= there

    @rule()
    def discard(self) -> None:
        self.runner.run(self.pairing.discard_expired())

    @rule()
    def restart(self) -> None:
        self.runner.run(self.stack.aclose())
        self.refused.clear()
        self.open()

    @invariant()
    def tables_hold_what_ought_to_be(self) -> None:
        now, model = self.clock.now(), self.model
        listing = self.runner.run(self.pairing.listing())
        accounts = ("", "bot")
        pending = [(one.account, one.user_id) for one in listing.pending]
        assert sorted(pending) == sorted(
            who for account in accounts for who in model.waiting(account, now)
        )
        assert all(len(model.waiting(account, now)) <= 3 for account in accounts)
        assert {(one.account, one.user_id) for one in listing.paired} == model.paired
        locked = {lock.account for lock in listing.locks}
        assert locked == {account for account in accounts if model.is_locked(account, now)}

    @invariant()
    def no_table_holds_a_code(self) -> None:
        def query(connection: apsw.Connection) -> str:
            return str([connection.execute(f"SELECT * FROM {one}").fetchall() for one in TABLES])  # noqa: S608 - names of ours

        content = self.runner.run(self.database.read(query))
        assert not any(code in content for code in self.codes)


TestPairing = PairingMachine.TestCase
TestPairing.settings = profile(max_examples=40, stateful_step_count=40, deadline=None)
