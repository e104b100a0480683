-- Instants are microseconds since the epoch (…_us), money is nano-dollars (…_nano).
-- WITHOUT ROWID is SQLite's: the primary key is the table, one tree to write instead of two.

CREATE TABLE sessions (
    owner         TEXT   NOT NULL,
    id            TEXT   NOT NULL,
    created_at_us BIGINT NOT NULL,
    PRIMARY KEY (owner, id)
);

-- A budget and what has become of it. `limit_nano` is what the owner set. `ceiling_nano` is the same, except
-- after the limit was lowered below what was already spent and held: then it is that amount, until it shrinks.
CREATE TABLE accounts (
    scope         TEXT   NOT NULL CHECK (scope IN ('task', 'session', 'key', 'service')),
    id            TEXT   NOT NULL,
    owner         TEXT   NOT NULL,
    limit_nano    BIGINT NOT NULL CHECK (limit_nano >= 0),
    ceiling_nano  BIGINT NOT NULL,
    spent_nano    BIGINT NOT NULL DEFAULT 0 CHECK (spent_nano >= 0),
    reserved_nano BIGINT NOT NULL DEFAULT 0 CHECK (reserved_nano >= 0),
    surplus_nano  BIGINT NOT NULL DEFAULT 0 CHECK (surplus_nano >= 0),
    PRIMARY KEY (scope, id),
    CHECK (ceiling_nano >= limit_nano),
    CHECK (spent_nano + reserved_nano <= ceiling_nano)
) WITHOUT ROWID;

CREATE TABLE tasks (
    id                  TEXT    NOT NULL PRIMARY KEY,
    owner               TEXT    NOT NULL,
    session_id          TEXT    NOT NULL,
    status              TEXT    NOT NULL CHECK (status IN
        ('queued', 'running', 'paused', 'cancelling', 'succeeded', 'failed', 'cancelled')),
    outcome             TEXT,
    spec                TEXT    NOT NULL,
    priority            INTEGER NOT NULL,
    created_at_us       BIGINT  NOT NULL,
    available_at_us     BIGINT  NOT NULL,
    deadline_at_us      BIGINT  NOT NULL,
    started_at_us       BIGINT,
    finished_at_us      BIGINT,
    run_count           INTEGER NOT NULL DEFAULT 0,  -- only grows: also the token that fences stale runs off
    step_count          INTEGER NOT NULL DEFAULT 0,
    turn_called         INTEGER NOT NULL DEFAULT 0,  -- 1: first in a budget's line, and its turn has come
    lease_owner         TEXT,
    result_json         TEXT,
    result_partial      INTEGER NOT NULL DEFAULT 0,
    error_json          TEXT,
    CHECK ((status IN ('succeeded', 'failed', 'cancelled')) = (outcome IS NOT NULL)),
    CHECK ((status IN ('succeeded', 'failed', 'cancelled')) = (finished_at_us IS NOT NULL)),
    CHECK ((status IN ('running', 'cancelling')) = (lease_owner IS NOT NULL))
);
CREATE INDEX tasks_waiting ON tasks (turn_called DESC, priority, created_at_us, id) WHERE status = 'queued';
CREATE INDEX tasks_expiring ON tasks (deadline_at_us) WHERE status = 'queued';
CREATE INDEX tasks_held ON tasks (lease_owner) WHERE lease_owner IS NOT NULL;
CREATE INDEX tasks_newest ON tasks (owner, created_at_us, id);
CREATE INDEX tasks_by_session ON tasks (owner, session_id, created_at_us, id);
CREATE INDEX tasks_by_status ON tasks (owner, status, created_at_us, id);

-- The journal. `data` is the event's fields as JSON, `body` the bytes of a model's answer or a tool's result.
CREATE TABLE events (
    subject TEXT    NOT NULL,
    seq     INTEGER NOT NULL CHECK (seq > 0),
    type    TEXT    NOT NULL,
    at_us   BIGINT  NOT NULL,
    run     INTEGER NOT NULL,
    data    TEXT    NOT NULL,
    body    BLOB,
    PRIMARY KEY (subject, seq)
);

-- Append-only. One reservation a model attempt, ended by one settlement or one release: the key says "once".
CREATE TABLE ledger_lines (
    task_id               TEXT    NOT NULL,
    step                  INTEGER NOT NULL,
    attempt               INTEGER NOT NULL,
    ended                 INTEGER NOT NULL,
    entry                 TEXT    NOT NULL CHECK (entry IN ('reservation', 'settlement', 'release')),
    kind                  TEXT    CHECK (kind IN ('confirmed', 'estimated', 'presumed')),
    owner                 TEXT    NOT NULL,
    session_id            TEXT    NOT NULL,
    run                   INTEGER NOT NULL,
    model                 TEXT    NOT NULL,
    price_row             TEXT    NOT NULL,
    scopes                TEXT    NOT NULL,
    amount_nano           BIGINT  NOT NULL CHECK (amount_nano >= 0),
    surplus_nano          BIGINT  NOT NULL DEFAULT 0 CHECK (surplus_nano >= 0),
    input_tokens          BIGINT  NOT NULL DEFAULT 0,
    output_tokens         BIGINT  NOT NULL DEFAULT 0,
    cache_read_tokens     BIGINT  NOT NULL DEFAULT 0,
    cache_write_5m_tokens BIGINT  NOT NULL DEFAULT 0,
    cache_write_1h_tokens BIGINT  NOT NULL DEFAULT 0,
    web_searches          BIGINT  NOT NULL DEFAULT 0,
    at_us                 BIGINT  NOT NULL,
    PRIMARY KEY (task_id, step, attempt, ended),
    CHECK ((entry = 'reservation') = (ended = 0) AND ended IN (0, 1)),
    CHECK ((entry = 'settlement') = (kind IS NOT NULL))
) WITHOUT ROWID;
CREATE INDEX ledger_by_session ON ledger_lines (owner, session_id);
