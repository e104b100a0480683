-- Budgets with windows, keys, and what a ledger line needs to explain itself.

-- `warn_at_nano`: spent money that is worth a warning; NULL once it was given.
CREATE TABLE accounts_with_windows (
    scope         TEXT   NOT NULL CHECK (scope IN
        ('task', 'session', 'key_day', 'key_month', 'service_day', 'service_month', 'service')),
    id            TEXT   NOT NULL,
    owner         TEXT   NOT NULL,
    limit_nano    BIGINT NOT NULL CHECK (limit_nano >= 0),
    ceiling_nano  BIGINT NOT NULL,
    spent_nano    BIGINT NOT NULL DEFAULT 0 CHECK (spent_nano >= 0),
    reserved_nano BIGINT NOT NULL DEFAULT 0 CHECK (reserved_nano >= 0),
    surplus_nano  BIGINT NOT NULL DEFAULT 0 CHECK (surplus_nano >= 0),
    warn_at_nano  BIGINT,
    PRIMARY KEY (scope, id),
    CHECK (ceiling_nano >= limit_nano),
    CHECK (spent_nano + reserved_nano <= ceiling_nano)
) WITHOUT ROWID;
INSERT INTO accounts_with_windows (scope, id, owner, limit_nano, ceiling_nano, spent_nano, reserved_nano, surplus_nano)
SELECT scope, id, owner, limit_nano, ceiling_nano, spent_nano, reserved_nano, surplus_nano FROM accounts;
DROP TABLE accounts;
ALTER TABLE accounts_with_windows RENAME TO accounts;

-- A key's text is never stored: `hash` is its SHA-256 in hex, `prefix` what may be shown of it.
-- A limit of NULL is none. Keys are revoked, never deleted: the ledger's lines name them.
CREATE TABLE keys (
    id               TEXT    NOT NULL PRIMARY KEY,
    owner            TEXT    NOT NULL,
    name             TEXT    NOT NULL,
    prefix           TEXT    NOT NULL,
    hash             TEXT    NOT NULL UNIQUE,
    enabled          INTEGER NOT NULL DEFAULT 1 CHECK (enabled IN (0, 1)),
    day_limit_nano   BIGINT  CHECK (day_limit_nano >= 0),
    month_limit_nano BIGINT  CHECK (month_limit_nano >= 0),
    created_at_us    BIGINT  NOT NULL,
    revoked_at_us    BIGINT,
    CHECK ((enabled = 0) = (revoked_at_us IS NOT NULL))
);

-- `usage_json`: the exact usage where the token columns do not tell all of it (several passes, another
-- model, tier, speed or geography). `bound`: how the reservation was bounded.
ALTER TABLE ledger_lines ADD COLUMN key_id TEXT NOT NULL DEFAULT '';
ALTER TABLE ledger_lines ADD COLUMN agent TEXT NOT NULL DEFAULT '';
ALTER TABLE ledger_lines ADD COLUMN bound TEXT NOT NULL DEFAULT 'proved' CHECK (bound IN ('proved', 'estimate'));
ALTER TABLE ledger_lines ADD COLUMN usage_json TEXT;
-- A session's lines are found through its tasks: one tree less to write for each line.
DROP INDEX ledger_by_session;
CREATE INDEX ledger_by_time ON ledger_lines (owner, at_us) WHERE entry = 'settlement';

-- A paused task waits until the account it is blocked by can pay `blocked_needed_nano`, or until `available_at_us`.
ALTER TABLE tasks ADD COLUMN parent_id TEXT;
ALTER TABLE tasks ADD COLUMN paused_json TEXT CHECK ((status = 'paused') = (paused_json IS NOT NULL));
ALTER TABLE tasks ADD COLUMN paused_at_us BIGINT;
ALTER TABLE tasks ADD COLUMN blocked_scope TEXT;
ALTER TABLE tasks ADD COLUMN blocked_id TEXT;
ALTER TABLE tasks ADD COLUMN blocked_needed_nano BIGINT;
CREATE INDEX tasks_paused ON tasks (blocked_scope, blocked_id, blocked_needed_nano) WHERE status = 'paused';
CREATE INDEX tasks_paused_until ON tasks (available_at_us) WHERE status = 'paused';
CREATE INDEX tasks_of_parent ON tasks (parent_id) WHERE parent_id IS NOT NULL;
