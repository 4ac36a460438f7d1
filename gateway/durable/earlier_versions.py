"""The migrations to versions 1 to 6 of the tables, the last of which older gateways know.

They are done with: a database that was brought to one of these versions is never brought to it
again, so nothing here changes any more. What the tables are now: `gateway.durable.schema`.
"""

from __future__ import annotations

from typing import Final

FIRST: Final = """
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
SECOND: Final = """
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

# Nothing in the tables: this version alone tells for certain that there are check sums; see
# `schema.CHECKED_FROM`.
THIRD: Final = ""

FOURTH: Final = """
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
FIFTH: Final = """
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
SIXTH: Final = """
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
