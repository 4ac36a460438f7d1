"""`gateway webhook`, on a directory that no daemon runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from tests.cli.processes import gateway
from tests.webhooks.running import settings_of, webhooks_on

if TYPE_CHECKING:
    from pathlib import Path

URL = "http://127.0.0.1:1/in"


def prepared(folder: Path) -> list[str]:
    """Make a state directory with two dead letters and one event; return how to name it."""

    async def run() -> None:
        async with webhooks_on(folder / "state", settings_of(folder, URL), runs=False) as bench:
            await bench.tell(1, 2, 3)
            await bench.state.database.write(
                lambda tx: tx.execute(
                    "UPDATE webhook_events SET dead_at = due_at, attempts = 10, "
                    "error = 'answered 500' WHERE position < 3"
                )
            )

    anyio.run(run)
    config = folder / "gateway.toml"
    secret = f'{{ file = "{folder}/ops.secret" }}'
    config.write_text(f'[[webhooks]]\nname = "ops"\nurl = "{URL}"\nsecret = {secret}\n')
    return ["--state-dir", str(folder / "state"), "--config", str(config)]


def test_dead_letters_are_listed_and_posted_again_without_a_daemon(tmp_path: Path) -> None:
    where = prepared(tmp_path)

    listed = gateway("webhook", "list", *where)
    waits = gateway("webhook", "list", "--queued", *where)
    waiting = gateway("webhook", "list", "--queued", "--json", *where).document
    dead = gateway("webhook", "list", "--webhook", "ops", "--json", *where).document["events"]
    one = gateway("webhook", "retry", dead[0]["id"], *where)
    rest = gateway("webhook", "retry", "--all", "ops", "--json", *where)
    none = gateway("webhook", "list", *where)
    unknown = gateway("webhook", "retry", "msg_none", *where)
    neither = gateway("webhook", "retry", *where)

    lines = [line.split() for line in listed.stdout.splitlines() if line]
    assert lines[0] == ["WEBHOOK", "STATE", "QUEUED", "DEAD", "URL"]
    assert lines[1] == ["ops", "stopped", "1", "2", URL]
    assert lines[2][:3] == ["ID", "WEBHOOK", "TYPE"]
    assert [line[0] for line in lines[3:]] == [one["id"] for one in dead]
    assert len(waiting["events"]) == 1
    heads, row = waits.stdout.splitlines()[-2:]
    assert heads.split()[-3:] == ["NEXT", "TRY", "WHY"]
    assert (
        row[heads.index("NEXT") : heads.index("WHY")]
        == row[heads.index("HAPPENED") : heads.index("TRIES")]
    )  # It was not tried yet, so it is due since it happened.
    assert one.stdout == "1 event will be posted again\n"
    assert rest.document == {"retried": 3}
    assert "no such events" in none.stderr
    assert (unknown.status, neither.status) == (1, 2)
    assert "taken meanwhile" in unknown.stderr
