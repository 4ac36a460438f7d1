"""The checker catches a real store that was made to lose something behind the daemon's back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.daemon import started_daemon
from tests.torture.clients import Caller
from tests.torture.laws import Law, laws_of
from tests.torture.ordeal import Ordeal
from tests.torture.scenario import CONFIG, act

if TYPE_CHECKING:
    from pathlib import Path


async def test_what_a_broken_store_lost_is_caught(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = Ordeal(tmp_path / "whole")
    async with started_daemon(whole.state_dir, CONFIG) as started, started.ready() as daemon:
        older = (whole.state_dir / "sessions.json").read_bytes()
        assert await act(Caller("c1", whole.history, daemon))
        await daemon.kill()
    whole.check_dead()
    await whole.check_recovery()

    without_log = whole.copy(tmp_path / "without-log")
    (without_log.state_dir / "gateway.db-wal").unlink()
    assert {Law.LOST, Law.BACK} <= laws_of(without_log.violations())

    cut_off = whole.copy(tmp_path / "cut-off")
    wal = cut_off.state_dir / "gateway.db-wal"
    # The last frame holds the commit mark of the last transaction.
    wal.write_bytes(wal.read_bytes()[:-1])
    assert laws_of(cut_off.violations())

    restored = whole.copy(tmp_path / "restored")
    (restored.state_dir / "sessions.json").write_bytes(older)
    assert Law.BACK in laws_of(restored.violations())

    flipped = whole.copy(tmp_path / "flipped")
    snapshot = flipped.state_dir / "sessions.json"
    snapshot.write_bytes(snapshot.read_bytes().replace(b'"written_at":"2', b'"written_at":"3'))
    assert Law.SNAPSHOT in laws_of(flipped.violations())

    emptied = whole.copy(tmp_path / "emptied")
    for file in emptied.state_dir.glob("gateway.db*"):
        file.unlink()
    assert {Law.LOST, Law.BACK} <= laws_of(emptied.violations())
