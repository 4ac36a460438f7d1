"""The tables of `gateway.db`, as numbered migrations.

Each migration runs in one transaction together with the version it leads to (`user_version`).
Instants are RFC 3339 text in UTC. A `member` is an entry as it stands in `sessions.json`:
`"<key>":{...}`.
"""

from __future__ import annotations

from typing import Final

APPLICATION_ID: Final = 0x53474B59
"""Marks a SQLite file as ours (`PRAGMA application_id`)."""

_FIRST = """
CREATE TABLE store_state (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE session_log (
    sequence INTEGER PRIMARY KEY,
    session_key TEXT NOT NULL,
    member BLOB
) STRICT;

CREATE TABLE sessions (
    position INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL UNIQUE,
    session_key TEXT NOT NULL,
    started_at TEXT NOT NULL,
    ended_at TEXT,
    end_reason TEXT,
    member BLOB
) STRICT;
CREATE INDEX sessions_by_key ON sessions (session_key);

CREATE TABLE messages (
    position INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL,
    turn_id TEXT NOT NULL,
    role TEXT NOT NULL,
    text TEXT NOT NULL,
    tool_calls TEXT,
    tool_call_id TEXT,
    tool_name TEXT,
    created_at TEXT NOT NULL
) STRICT;
CREATE INDEX messages_by_session ON messages (session_id);

CREATE TABLE model_calls (
    position INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL,
    turn_id TEXT NOT NULL,
    agent TEXT NOT NULL,
    model TEXT NOT NULL,
    started_at TEXT NOT NULL,
    input_tokens INTEGER,
    output_tokens INTEGER,
    cache_read_tokens INTEGER,
    cache_write_tokens INTEGER
) STRICT;
CREATE INDEX model_calls_by_session ON model_calls (session_id);

CREATE TABLE inbox (
    position INTEGER PRIMARY KEY,
    session_key TEXT NOT NULL,
    message_id TEXT NOT NULL,
    turn_id TEXT NOT NULL,
    agent TEXT NOT NULL,
    source TEXT NOT NULL,
    text TEXT NOT NULL,
    reset TEXT,
    accepted_at TEXT NOT NULL,
    finished_at TEXT,
    recoveries INTEGER NOT NULL DEFAULT 0,
    UNIQUE (session_key, message_id)
) STRICT;
CREATE INDEX inbox_unfinished ON inbox (position) WHERE finished_at IS NULL;
CREATE INDEX inbox_finished ON inbox (finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE outbox (
    position INTEGER PRIMARY KEY,
    turn_id TEXT NOT NULL UNIQUE,
    session_key TEXT NOT NULL,
    platform TEXT NOT NULL,
    reply TEXT NOT NULL,
    created_at TEXT NOT NULL,
    sent_at TEXT
) STRICT;
CREATE INDEX outbox_by_key ON outbox (session_key);
CREATE INDEX outbox_sent ON outbox (sent_at) WHERE sent_at IS NOT NULL;
"""

# What is owed an answer and what was answered stand apart: the inbox stays a few pages however many
# messages there were, and a turn touches fewer pages.
_SECOND = """
DROP INDEX model_calls_by_session;

ALTER TABLE inbox RENAME TO old_inbox;
ALTER TABLE outbox RENAME TO old_outbox;

CREATE TABLE inbox (
    position INTEGER PRIMARY KEY,
    session_key TEXT NOT NULL,
    message_id TEXT NOT NULL,
    turn_id TEXT NOT NULL,
    agent TEXT NOT NULL,
    source TEXT NOT NULL,
    text TEXT NOT NULL,
    reset TEXT,
    accepted_at TEXT NOT NULL,
    recoveries INTEGER NOT NULL DEFAULT 0,
    UNIQUE (session_key, message_id)
) STRICT;

CREATE TABLE outbox (
    position INTEGER PRIMARY KEY,
    session_key TEXT NOT NULL,
    message_id TEXT NOT NULL,
    turn_id TEXT NOT NULL,
    platform TEXT NOT NULL,
    reply TEXT NOT NULL,
    created_at TEXT NOT NULL,
    sent_at TEXT,
    UNIQUE (session_key, message_id)
) STRICT;

CREATE INDEX old_inbox_by_turn ON old_inbox (session_key, turn_id);

INSERT INTO inbox
SELECT position, session_key, message_id, turn_id, agent, source, text, reset, accepted_at,
    recoveries
FROM old_inbox WHERE finished_at IS NULL;

INSERT INTO outbox
SELECT reply.position, reply.session_key, coalesce(asked.message_id, reply.turn_id), reply.turn_id,
    platform, reply, created_at, sent_at
FROM old_outbox AS reply LEFT JOIN old_inbox AS asked
    ON asked.session_key = reply.session_key AND asked.turn_id = reply.turn_id;

DROP TABLE old_inbox;
DROP TABLE old_outbox;
CREATE INDEX outbox_sent ON outbox (sent_at) WHERE sent_at IS NOT NULL;
"""

CHECKED_FROM: Final = 3
"""The first version whose pages are never without check sums."""
# Nothing in the tables: this version alone tells for certain that there are check sums.
_THIRD = ""

_FOURTH = """
ALTER TABLE messages ADD COLUMN images TEXT;

ALTER TABLE model_calls ADD COLUMN cache_write_1h_tokens INTEGER;
ALTER TABLE model_calls ADD COLUMN reasoning_tokens INTEGER;
ALTER TABLE model_calls ADD COLUMN cache_verdict TEXT;

CREATE TABLE projections (
    position INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL,
    item TEXT NOT NULL,
    mode TEXT NOT NULL,
    max_chars INTEGER NOT NULL,
    head_chars INTEGER NOT NULL,
    tail_chars INTEGER NOT NULL,
    placeholder TEXT NOT NULL,
    made_at TEXT NOT NULL,
    UNIQUE (session_id, item)
) STRICT;

CREATE TABLE context_accounts (
    position INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL UNIQUE,
    model TEXT NOT NULL,
    request_tokens INTEGER NOT NULL,
    overhead_tokens INTEGER NOT NULL,
    tokens_per_estimate REAL NOT NULL DEFAULT 1.0,
    weighed_tokens INTEGER NOT NULL DEFAULT 0,
    cache_verdict TEXT NOT NULL,
    rounds INTEGER NOT NULL,
    trimmed INTEGER NOT NULL,
    cleared INTEGER NOT NULL,
    saved_tokens INTEGER NOT NULL,
    saved_usd REAL,
    last_round_at TEXT
) STRICT;
"""

# What an older gateway counted is taken over: nobody knows any more in whose name, nor what it
# cost. Sums are cut to what a column holds, for a damaged count must not keep a gateway from
# starting.
_FIFTH = """
ALTER TABLE model_calls ADD COLUMN purpose TEXT NOT NULL DEFAULT 'turn';
ALTER TABLE model_calls ADD COLUMN usd REAL;

ALTER TABLE context_accounts ADD COLUMN spent_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE context_accounts ADD COLUMN spent_usd REAL NOT NULL DEFAULT 0;
ALTER TABLE context_accounts ADD COLUMN spent_unpriced_calls INTEGER NOT NULL DEFAULT 0;

CREATE TABLE usage (
    position INTEGER PRIMARY KEY,
    day TEXT NOT NULL,
    agent TEXT NOT NULL,
    model TEXT NOT NULL,
    user TEXT NOT NULL,
    calls INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    usd REAL NOT NULL,
    unpriced_calls INTEGER NOT NULL,
    UNIQUE (day, user, agent, model)
) STRICT;

CREATE TABLE session_users (
    position INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL,
    user TEXT NOT NULL,
    UNIQUE (session_id, user)
) STRICT;

CREATE TABLE summaries (
    position INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL,
    through_turn TEXT NOT NULL,
    turns INTEGER NOT NULL,
    text TEXT NOT NULL,
    agent TEXT NOT NULL,
    model TEXT NOT NULL,
    tokens_before INTEGER NOT NULL,
    tokens_after INTEGER NOT NULL,
    made_at TEXT NOT NULL
) STRICT;
CREATE INDEX summaries_by_session ON summaries (session_id);

INSERT INTO usage (day, agent, model, user, calls, input_tokens, output_tokens, cache_read_tokens,
    cache_write_tokens, usd, unpriced_calls)
SELECT substr(started_at, 1, 10), agent, model, '', count(*),
    CAST(min(max(total(input_tokens), 0), 1e15) AS INTEGER),
    CAST(min(max(total(output_tokens), 0), 1e15) AS INTEGER),
    CAST(min(max(total(cache_read_tokens), 0), 1e15) AS INTEGER),
    CAST(min(max(total(cache_write_tokens), 0), 1e15) AS INTEGER),
    0.0, count(*)
FROM model_calls
WHERE input_tokens IS NOT NULL
    AND started_at GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T*'
GROUP BY 1, 2, 3;

INSERT INTO context_accounts (session_id, model, request_tokens, overhead_tokens, cache_verdict,
    rounds, trimmed, cleared, saved_tokens, spent_tokens, spent_unpriced_calls)
SELECT session_id, '', 0, 0, '', 0, 0, 0, 0,
    CAST(min(max(total(input_tokens) + total(output_tokens) + total(cache_read_tokens)
        + total(cache_write_tokens), 0), 1e15) AS INTEGER),
    count(*)
FROM model_calls
WHERE input_tokens IS NOT NULL
GROUP BY session_id
ON CONFLICT (session_id) DO UPDATE SET spent_tokens = excluded.spent_tokens,
    spent_unpriced_calls = excluded.spent_unpriced_calls;
"""

# What was accepted before knows neither its conversation nor whether its turn had begun. It counts
# as begun, so that a message whose turn breaks the gateway is not run more often than it may be.
_SIXTH = """
ALTER TABLE inbox ADD COLUMN session_id TEXT NOT NULL DEFAULT '';
ALTER TABLE inbox ADD COLUMN origin TEXT NOT NULL DEFAULT 'user';
ALTER TABLE inbox ADD COLUMN begun INTEGER NOT NULL DEFAULT 1;
ALTER TABLE inbox ADD COLUMN ended TEXT;

CREATE TABLE broken_starts (
    position INTEGER PRIMARY KEY,
    session_key TEXT NOT NULL UNIQUE,
    starts INTEGER NOT NULL
) STRICT;

ALTER TABLE outbox ADD COLUMN channel TEXT;
ALTER TABLE outbox ADD COLUMN chat TEXT;
ALTER TABLE outbox ADD COLUMN source TEXT;
ALTER TABLE outbox ADD COLUMN reply_to TEXT;
ALTER TABLE outbox ADD COLUMN owed_since TEXT;
ALTER TABLE outbox ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE outbox ADD COLUMN sent_chars INTEGER NOT NULL DEFAULT 0;
ALTER TABLE outbox ADD COLUMN repeated INTEGER NOT NULL DEFAULT 0;
ALTER TABLE outbox ADD COLUMN sending_at TEXT;
ALTER TABLE outbox ADD COLUMN dead_at TEXT;
ALTER TABLE outbox ADD COLUMN error TEXT;
ALTER TABLE outbox ADD COLUMN platform_id TEXT;
CREATE INDEX outbox_owed ON outbox (channel, owed_since)
    WHERE channel IS NOT NULL AND sent_at IS NULL AND dead_at IS NULL;
CREATE INDEX outbox_owed_chat ON outbox (chat, position)
    WHERE channel IS NOT NULL AND sent_at IS NULL AND dead_at IS NULL;
CREATE INDEX outbox_dead ON outbox (dead_at) WHERE dead_at IS NOT NULL;
CREATE INDEX outbox_delivery ON outbox (turn_id) WHERE channel IS NOT NULL;

CREATE TABLE outbox_chats (
    position INTEGER PRIMARY KEY,
    chat TEXT NOT NULL UNIQUE,
    channel TEXT NOT NULL,
    due_at TEXT NOT NULL
) STRICT;
CREATE INDEX outbox_chats_due ON outbox_chats (channel, due_at);

CREATE TABLE processes (
    position INTEGER PRIMARY KEY,
    process_id TEXT NOT NULL UNIQUE,
    session_key TEXT NOT NULL,
    session_id TEXT NOT NULL,
    agent TEXT NOT NULL,
    source TEXT NOT NULL,
    command TEXT NOT NULL,
    cwd TEXT NOT NULL,
    created_at TEXT NOT NULL,
    pid INTEGER,
    start_ticks INTEGER,
    boot_id TEXT,
    ended_at TEXT,
    end_reason TEXT,
    detail TEXT NOT NULL DEFAULT '',
    exit_status INTEGER,
    output_bytes INTEGER NOT NULL DEFAULT 0,
    output TEXT NOT NULL DEFAULT '',
    output_whole INTEGER NOT NULL DEFAULT 1,
    reported_at TEXT
) STRICT;
CREATE INDEX processes_by_key ON processes (session_key);
CREATE INDEX processes_live ON processes (position) WHERE ended_at IS NULL;
CREATE INDEX processes_unreported ON processes (position) WHERE reported_at IS NULL;
CREATE INDEX processes_reported ON processes (reported_at) WHERE reported_at IS NOT NULL;

CREATE TABLE pairing_requests (
    position INTEGER PRIMARY KEY,
    platform TEXT NOT NULL,
    account TEXT NOT NULL,
    user_id TEXT NOT NULL,
    user_name TEXT NOT NULL,
    salt TEXT NOT NULL,
    code_hash TEXT NOT NULL,
    asked_at TEXT NOT NULL,
    told_at TEXT NOT NULL,
    UNIQUE (platform, account, user_id)
) STRICT;

CREATE TABLE pairing_locks (
    position INTEGER PRIMARY KEY,
    platform TEXT NOT NULL,
    account TEXT NOT NULL,
    failures INTEGER NOT NULL,
    locked_until TEXT,
    UNIQUE (platform, account)
) STRICT;

CREATE TABLE paired_users (
    position INTEGER PRIMARY KEY,
    platform TEXT NOT NULL,
    account TEXT NOT NULL,
    user_id TEXT NOT NULL,
    user_name TEXT NOT NULL,
    paired_at TEXT NOT NULL,
    UNIQUE (platform, account, user_id)
) STRICT;
"""

# Sizes are told of the content itself, so that they cannot be wrong; the index holds them and all
# else that rules ask for, so that no plan reads a text. Sums are kept by triggers, whoever writes.
# What is made of an item is known by its row in `pruned_items`, which also holds what the item was
# until its time to be restored is over. `through` is the last message that is not sent any more.
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
    record TEXT NOT NULL,
    original BLOB
) STRICT;
CREATE INDEX pruned_items_by_run ON pruned_items (run_id);
CREATE INDEX pruned_items_by_item ON pruned_items (item);
CREATE INDEX pruned_items_by_session ON pruned_items (session_id);
CREATE INDEX pruned_items_due ON pruned_items (state, due_at);
CREATE INDEX pruned_items_by_archive ON pruned_items (archive) WHERE archive IS NOT NULL;

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

CREATE TABLE api_tokens (
    position INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    hash TEXT NOT NULL,
    created_at TEXT NOT NULL,
    last_used_at TEXT,
    revoked_at TEXT
) STRICT;
"""

MIGRATIONS: Final[tuple[str, ...]] = (
    _FIRST,
    _SECOND,
    _THIRD,
    _FOURTH,
    _FIFTH,
    _SIXTH,
    _SEVENTH,
)
"""The script at index n leads from version n to n + 1."""
