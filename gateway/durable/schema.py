"""The tables of `gateway.db`, as numbered migrations.

Each migration runs in one transaction together with the version it leads to (`user_version`).
Instants are RFC 3339 text in UTC. A `member` is an entry as it stands in `sessions.json`:
`"<key>":{...}`.
"""

from __future__ import annotations

from typing import Final

from gateway.durable.earlier_versions import FIFTH, FIRST, FOURTH, SECOND, SIXTH, THIRD

APPLICATION_ID: Final = 0x53474B59
"""Marks a SQLite file as ours (`PRAGMA application_id`)."""
CHECKED_FROM: Final = 3
"""The first version whose pages are never without check sums."""

# Sizes are told of the content itself, so that they cannot be wrong; the index holds them and all
# else that rules ask for, so that no plan reads a text. Sums are kept by triggers, whoever writes.
# What is made of an item is known by its row in `pruned_items`. What the item was is held in
# `pruned_originals` until its time to be restored is over: in a table of its own, so that whole
# pages come free, and by triggers, so that no change of an entry can leave it behind. `through` is
# the last message that is not sent any more.
_SEVENTH = """
ALTER TABLE messages ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
ALTER TABLE messages ADD COLUMN marks TEXT;
ALTER TABLE messages ADD COLUMN size_bytes INTEGER NOT NULL GENERATED ALWAYS AS (
    length(CAST(text AS BLOB)) + length(CAST(coalesce(tool_calls, '') AS BLOB))
    + length(CAST(coalesce(images, '') AS BLOB))
) VIRTUAL;
ALTER TABLE messages ADD COLUMN tokens INTEGER NOT NULL GENERATED ALWAYS AS (
    CASE role WHEN 'notice' THEN 0 ELSE (
        length(text) + length(coalesce(tool_calls, '')) + length(coalesce(tool_call_id, ''))
        + 8000 * (length(coalesce(images, '')) - length(replace(coalesce(images, ''), '{', '')))
        + 3
    ) / 4 END
) VIRTUAL;
CREATE INDEX messages_as_items ON messages (
    created_at, position, session_id, role, size_bytes, tokens, turn_id, tool_call_id, version,
    marks
);

CREATE TABLE item_totals (
    session_id TEXT NOT NULL,
    type TEXT NOT NULL,
    items INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    PRIMARY KEY (session_id, type)
) STRICT, WITHOUT ROWID;

INSERT INTO item_totals
SELECT session_id, CASE role WHEN 'tool' THEN 'tool_result' ELSE 'message' END,
    count(*), sum(size_bytes), sum(tokens)
FROM messages GROUP BY 1, 2;

CREATE TRIGGER messages_added AFTER INSERT ON messages BEGIN
    INSERT INTO item_totals
    VALUES (NEW.session_id, CASE NEW.role WHEN 'tool' THEN 'tool_result' ELSE 'message' END,
        1, NEW.size_bytes, NEW.tokens)
    ON CONFLICT DO UPDATE SET items = items + 1, size_bytes = size_bytes + excluded.size_bytes,
        tokens = tokens + excluded.tokens;
END;

CREATE TRIGGER messages_changed AFTER UPDATE OF text, tool_calls, images ON messages BEGIN
    UPDATE item_totals SET size_bytes = size_bytes + NEW.size_bytes - OLD.size_bytes,
        tokens = tokens + NEW.tokens - OLD.tokens
    WHERE session_id = OLD.session_id
        AND type = CASE OLD.role WHEN 'tool' THEN 'tool_result' ELSE 'message' END;
END;

CREATE TRIGGER messages_removed AFTER DELETE ON messages BEGIN
    UPDATE item_totals SET items = items - 1, size_bytes = size_bytes - OLD.size_bytes,
        tokens = tokens - OLD.tokens
    WHERE session_id = OLD.session_id
        AND type = CASE OLD.role WHEN 'tool' THEN 'tool_result' ELSE 'message' END;
    DELETE FROM item_totals WHERE session_id = OLD.session_id AND items = 0;
END;

ALTER TABLE outbox ADD COLUMN shown_id TEXT;

CREATE TABLE pruning_runs (
    position INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE,
    cause TEXT NOT NULL,
    started_at TEXT NOT NULL,
    ended_at TEXT,
    status TEXT NOT NULL,
    detail TEXT NOT NULL,
    pruned INTEGER NOT NULL,
    freed_bytes INTEGER NOT NULL,
    freed_tokens INTEGER NOT NULL,
    record TEXT NOT NULL
) STRICT;

CREATE TABLE pruned_items (
    position INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL,
    item INTEGER NOT NULL,
    session_id TEXT NOT NULL,
    action TEXT NOT NULL,
    state TEXT NOT NULL,
    at TEXT NOT NULL,
    due_at TEXT,
    archive TEXT,
    record TEXT NOT NULL
) STRICT;
CREATE INDEX pruned_items_by_run ON pruned_items (run_id);
CREATE INDEX pruned_items_by_item ON pruned_items (item);
CREATE INDEX pruned_items_by_session ON pruned_items (session_id);
CREATE INDEX pruned_items_due ON pruned_items (state, due_at);
CREATE INDEX pruned_items_by_archive ON pruned_items (archive) WHERE archive IS NOT NULL;

CREATE TABLE pruned_originals (
    entry INTEGER PRIMARY KEY,
    original BLOB NOT NULL
) STRICT;

CREATE TRIGGER pruned_items_let_go AFTER UPDATE OF state ON pruned_items
WHEN NEW.state <> 'held' BEGIN
    DELETE FROM pruned_originals WHERE entry = NEW.position;
END;

CREATE TRIGGER pruned_items_removed AFTER DELETE ON pruned_items BEGIN
    DELETE FROM pruned_originals WHERE entry = OLD.position;
END;

CREATE TABLE archives (
    position INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    made_at TEXT NOT NULL,
    purge_at TEXT,
    items INTEGER NOT NULL,
    content_bytes INTEGER NOT NULL,
    file_bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL
) STRICT;
CREATE INDEX sessions_ended ON sessions (ended_at) WHERE ended_at IS NOT NULL;

ALTER TABLE summaries ADD COLUMN through INTEGER;
ALTER TABLE projections ADD COLUMN through INTEGER;
UPDATE summaries SET through = (
    SELECT max(position) FROM messages
    WHERE session_id = summaries.session_id AND turn_id = summaries.through_turn
);
UPDATE projections SET through = (
    SELECT max(position) FROM messages
    WHERE session_id = projections.session_id AND turn_id = projections.item
) WHERE mode = 'omit';

ALTER TABLE inbox ADD COLUMN continues TEXT;
ALTER TABLE inbox ADD COLUMN asked TEXT;

CREATE TABLE api_tokens (
    position INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    hash TEXT NOT NULL,
    created_at TEXT NOT NULL,
    last_used_at TEXT,
    revoked_at TEXT
) STRICT;

CREATE TABLE webhook_events (
    position INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL UNIQUE,
    webhook TEXT NOT NULL,
    type TEXT NOT NULL,
    session_key TEXT NOT NULL,
    body TEXT NOT NULL,
    created_at TEXT NOT NULL,
    due_at TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    dead_at TEXT
) STRICT;
CREATE INDEX webhook_events_due ON webhook_events (webhook, due_at) WHERE dead_at IS NULL;
CREATE INDEX webhook_events_queued ON webhook_events (webhook) WHERE dead_at IS NULL;
CREATE INDEX webhook_events_dead ON webhook_events (webhook, dead_at) WHERE dead_at IS NOT NULL;
CREATE INDEX webhook_events_by_session ON webhook_events (session_key);
"""

MIGRATIONS: Final[tuple[str, ...]] = (
    FIRST,
    SECOND,
    THIRD,
    FOURTH,
    FIFTH,
    SIXTH,
    _SEVENTH,
)
"""The script at index n leads from version n to n + 1."""
