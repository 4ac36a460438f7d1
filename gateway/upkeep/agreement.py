"""Whether entries, transcripts, inbox and outbox tell the same story.

A turn's messages, its reply, the end of its inbox row and its entry's count are one commit, so they
can never disagree by a crash. They may where entries were taken from a file (an import, `store
adopt`, an edit by hand): the file says what it says, and the transcript is what was said here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.errors import DamagedDataError
from gateway.sessions.history import stamp
from gateway.sessions.table import SHARDS
from gateway.transcripts import inbox, outbox_rows
from gateway.transcripts.gone import audit_cut
from gateway.transcripts.outbox import WITHOUT_TURN
from gateway.upkeep.findings import Level, Report, Tally, tell
from gateway.upkeep.pairing_rows import check_pairing
from gateway.upkeep.process_rows import check_processes
from gateway.upkeep.pruning_rows import KEPT, MAY_LACK, was_pruned
from gateway.upkeep.snapshots import member_problem
from gateway.upkeep.token_rows import check_tokens
from gateway.upkeep.webhook_rows import check_webhooks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.durable.connection import Connection
    from gateway.sessions.entry import SessionEntry
    from gateway.sessions.table import EntryTable
_UNREADABLE: Final = (
    " OR (images IS NOT NULL AND NOT json_valid(images)) OR version < 0 "
    "OR (marks IS NOT NULL AND NOT json_valid(marks))"
)
"""SQL: what only the newest tables have of a message cannot be read."""


def check_agreement(
    report: Report, connection: Connection, table: EntryTable, *, taken: bool, newest: bool
) -> None:
    """Check the present entries against everything else.

    Args:
        report: Where the findings go.
        connection: The database.
        table: The entries as a start would have them.
        taken: Whether some of them were taken from a file.
        newest: Whether the tables are of the present version.
    """
    level = Level.WARNING if taken else Level.WRONG
    foreign, running = _check_entries(report, connection, table, level)
    _check_open(report, connection, table, level, running=running)
    _check_ended(report, connection)
    _check_messages(report, connection, foreign, level, newest=newest)
    if newest:
        _check_contexts(report, connection)
        _check_usage(report, connection, level)
        _check_boxes(report, connection, level)
        check_pairing(report, connection)
        check_processes(report, connection)
        check_tokens(report, connection)
        check_webhooks(report, connection)


def entries_of(table: EntryTable) -> Iterator[SessionEntry]:
    """Yield the entries of a table, decoded one at a time."""
    for shard in range(SHARDS):
        for member in table.members(shard):
            entry = table.get(member[1 : member.find(b'":')].decode())
            if entry is not None:
                yield entry


def _check_entries(
    report: Report, connection: Connection, table: EntryTable, level: Level
) -> tuple[set[str], int]:
    """Check each entry's session and turns.

    What pruning took of a transcript is missing from it.

    Returns the session ids that have no row here, and how many have one that has not ended.
    """
    foreign: set[str] = set()
    running = 0
    shared = Tally("session ids belong to two keys")
    ended = Tally("entries go on with a session that has ended")
    fewer = Tally("entries count fewer turns than their transcript has")
    more = Tally("entries count more turns than their transcript has")
    for entry in entries_of(table):
        row = connection.execute(
            "SELECT session_key, ended_at FROM sessions WHERE session_id = ?", (entry.session_id,)
        ).fetchone()
        if row is None:
            if entry.session_id in foreign:
                shared.add(f"{entry.session_id} ({entry.session_key})")
            foreign.add(entry.session_id)
        elif row[0] != entry.session_key:
            shared.add(f"{entry.session_id} ({entry.session_key}, {row[0]})")
        elif row[1] is not None:
            ended.add(entry.session_key)
        else:
            running += 1
        turns = _turns(connection, entry.session_id)
        place = f"{entry.session_key} ({entry.turns}, {turns})"
        if entry.turns < turns:
            fewer.add(place)
        elif entry.turns > turns and row is not None and not _may_lack(connection, entry):
            more.add(place)
    tell(report, "session ids", [shared], level=Level.WRONG, fine="each belongs to one key")
    fine = f"{len(table)} entries agree with their transcripts"
    tell(report, "turns", [ended, fewer, more], level=level, fine=fine)
    if foreign and level is Level.WARNING:
        report.warning(
            "turns", f"{len(foreign)} entries came from a file; what was said before is not here"
        )
    elif foreign:
        text = f"{len(foreign)} entries are of sessions that the database has never had"
        report.wrong("turns", f"{text}, as in a file of another store")
    return foreign, running


def _may_lack(connection: Connection, entry: SessionEntry) -> bool:
    """Return whether pruning took, or may have taken, items of a session's transcript."""
    cut = audit_cut(connection)
    if cut is not None and entry.created_at < cut:
        return True

    return was_pruned(connection, entry.session_id)


def _turns(connection: Connection, session_id: str) -> int:
    found = connection.execute(
        "SELECT count(DISTINCT turn_id) FROM messages WHERE session_id = ?", (session_id,)
    ).fetchall()
    return int(str(found[0][0]))


def _check_open(
    report: Report, connection: Connection, table: EntryTable, level: Level, *, running: int
) -> None:
    """Check that every session that has not ended is the one its key's entry goes on with."""
    count = connection.execute("SELECT count(*) FROM sessions WHERE ended_at IS NULL").fetchall()
    if count[0][0] == running:
        report.ok("sessions", "every open one has its entry")
        return

    lost = Tally("sessions have neither ended nor an entry")
    for session_id, key in connection.execute(
        "SELECT session_id, session_key FROM sessions WHERE ended_at IS NULL"
    ):
        entry = table.get(str(key))
        if entry is None or entry.session_id != session_id:
            lost.add(f"{session_id} ({key})")
    tell(report, "sessions", [lost], level=level, fine="every open one has its entry")


def _check_ended(report: Report, connection: Connection) -> None:
    bad = Tally("ended sessions have an entry that cannot be read")
    count = 0
    for session_id, key, member in connection.execute(
        "SELECT session_id, session_key, member FROM sessions WHERE member IS NOT NULL"
    ):
        count += 1
        problem = member_problem(str(key), bytes(member))
        if problem:
            bad.add(f"{session_id} ({problem})")
    tell(report, "ended sessions", [bad], level=Level.WRONG, fine=f"{count} can be brought back")


def _check_messages(
    report: Report, connection: Connection, foreign: set[str], level: Level, *, newest: bool
) -> None:
    orphans = Tally("sessions are known by their messages, model calls or contexts only")
    tables = ["messages", "model_calls"]
    if newest:
        tables += ["projections", "context_accounts", "summaries", "session_users"]
        tables += [f"pruned_items WHERE {KEPT}"]
    for table in tables:
        for (session_id,) in connection.execute(
            f"SELECT session_id FROM {table} GROUP BY session_id "  # noqa: S608 - names of ours
            "HAVING session_id NOT IN (SELECT session_id FROM sessions)"
        ):
            if session_id not in foreign:
                orphans.add(f"{session_id} ({table.split()[0]})")
    unreadable = Tally("messages cannot be read")
    for position, role in connection.execute(
        "SELECT position, role FROM messages "  # noqa: S608 - texts of ours
        "WHERE role NOT IN ('user', 'assistant', 'tool', 'notice', 'system') "
        "OR (tool_calls IS NOT NULL AND NOT json_valid(tool_calls))"
        + (_UNREADABLE if newest else "")
    ):
        unreadable.add(f"position {position} ({role})")
    count = int(str(connection.execute("SELECT count(*) FROM messages").fetchall()[0][0]))
    report.facts["messages"] = count
    if unreadable.count:
        report.wrong("transcripts", str(unreadable))
    tell(report, "transcripts", [orphans], level=level, fine=f"{count} messages")


def _check_contexts(report: Report, connection: Connection) -> None:
    unreadable = Tally("projections cannot be read")
    for position, mode in connection.execute(
        "SELECT position, mode FROM projections WHERE mode NOT IN ('trim', 'clear', 'omit', 'skip')"
    ):
        unreadable.add(f"position {position} ({mode})")
    empty = Tally("summaries say nothing, or of no turn")
    for position, session_id in connection.execute(
        "SELECT position, session_id FROM summaries "
        "WHERE trim(text) = '' OR through_turn = '' OR turns < 1"
    ):
        empty.add(f"position {position} ({session_id})")
    fine = f"{_count(connection, 'projections')} projections"
    summaries = _count(connection, "summaries")
    fine += f", {summaries} summaries" if summaries else ""
    tell(report, "contexts", [unreadable, empty], level=Level.WRONG, fine=fine)


def _check_usage(report: Report, connection: Connection, level: Level) -> None:
    """Check the sums of what was used: a call and its share of them are one commit.

    Erased sessions are in the sums alone.
    """
    wrong = Tally("sums of what was used cannot be right")
    for day, agent, model in connection.execute(
        "SELECT day, agent, model FROM usage WHERE day NOT GLOB "
        "'[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]' OR min(calls, input_tokens, output_tokens, "
        "cache_read_tokens, cache_write_tokens, usd, unpriced_calls) < 0"
    ):
        wrong.add(f"{day} ({agent}, {model})")
    fewer = Tally("days count fewer model calls than were recorded")
    for day, agent, model, counted, recorded in connection.execute(
        "SELECT day, agent, model, coalesce(counted, 0), recorded FROM "
        "(SELECT substr(started_at, 1, 10) AS day, agent, model, count(*) AS recorded "
        "FROM model_calls WHERE input_tokens IS NOT NULL GROUP BY 1, 2, 3) LEFT JOIN "
        "(SELECT day, agent, model, sum(calls) AS counted FROM usage GROUP BY 1, 2, 3) "
        "USING (day, agent, model) WHERE coalesce(counted, 0) < recorded"
    ):
        fewer.add(f"{day} ({agent}, {model}: {counted} of {recorded})")
    if wrong.count:
        report.wrong("usage", str(wrong))
    fine = f"{_count(connection, 'usage')} sums, none below what was recorded"
    tell(report, "usage", [fewer], level=level, fine=fine)


def _count(connection: Connection, table: str) -> int:
    return int(str(connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0]))  # noqa: S608 - names of ours


def _check_boxes(report: Report, connection: Connection, level: Level) -> None:
    both = Tally("messages are answered, and still wait for an answer")
    for turn_id, key in connection.execute(
        "SELECT turn_id, session_key FROM inbox AS asked WHERE EXISTS (SELECT 1 FROM outbox "
        "WHERE session_key = asked.session_key AND message_id = asked.message_id)"
    ):
        both.add(f"{turn_id} ({key})")
    untold = Tally("replies belong to turns that are in no transcript")
    cut, marks = audit_cut(connection), ", ".join("?" * len(WITHOUT_TURN))
    for (turn_id,) in connection.execute(
        "SELECT coalesce(CASE WHEN json_valid(reply) THEN "  # noqa: S608 - texts of ours
        "nullif(json_extract(reply, '$.continues'), '') END, turn_id) "
        "FROM outbox WHERE CASE WHEN json_valid(reply) THEN "
        f"json_extract(reply, '$.status') NOT IN ({marks}) ELSE 1 END "
        f"AND created_at >= ? AND NOT ({MAY_LACK}) "
        "EXCEPT SELECT turn_id FROM messages",
        (*WITHOUT_TURN, stamp(cut) if cut else ""),
    ):
        untold.add(str(turn_id))
    unreadable = Tally("stored replies cannot be read")
    for (turn_id,) in connection.execute(
        "SELECT turn_id FROM outbox WHERE channel IS NULL AND NOT json_valid(reply)"
    ):
        unreadable.add(str(turn_id))
    for delivery_id in outbox_rows.unreadable(connection):
        unreadable.add(delivery_id)
    try:
        waiting = len(inbox.unfinished(connection))
    except DamagedDataError as error:
        report.wrong("inbox", f"unanswered messages cannot be read ({error.reason})")
    else:
        fine = f"{waiting} messages wait for an answer"
        tell(report, "inbox", [both], level=Level.WRONG, fine=fine)
    count = int(str(connection.execute("SELECT count(*) FROM outbox").fetchall()[0][0]))
    fine = f"{count} replies, each of a turn in a transcript"
    if unreadable.count:
        report.wrong("outbox", str(unreadable))
    tell(report, "outbox", [untold], level=level, fine=fine)
