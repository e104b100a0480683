-- Economy: questions at half price, answered in batches some hours later.

-- `in_batch`: the task waits for such an answer; it is in nobody's way meanwhile.
ALTER TABLE tasks ADD COLUMN in_batch INTEGER NOT NULL DEFAULT 0 CHECK (in_batch IN (0, 1));

-- A batch is written down before it is sent. `provider_id` is NULL as long as nobody knows whether it was made. Who
-- looks after it puts `due_at_us` off first: when that process dies, the next one that finds it due goes on.
CREATE TABLE batches (
    id          TEXT    NOT NULL PRIMARY KEY,
    provider_id TEXT    UNIQUE,
    item_count  INTEGER NOT NULL CHECK (item_count > 0),
    cancelled   INTEGER NOT NULL DEFAULT 0 CHECK (cancelled IN (0, 1)),
    made_at_us  BIGINT  NOT NULL,
    due_at_us   BIGINT  NOT NULL
);
CREATE INDEX batches_due ON batches (due_at_us);

-- One row a reservation that a batch is for, from then until it is settled; `custom_id` is the reservation's id as the
-- provider takes it. Without `batch_id` it waits to be sent; with a `result` it waits to be taken in. `given_up`: its
-- task has ended without it, and only what it costs is still of interest. `alone`: no batch is made of it and others.
CREATE TABLE batch_items (
    task_id    TEXT    NOT NULL,
    step       INTEGER NOT NULL,
    attempt    INTEGER NOT NULL,
    custom_id  TEXT    NOT NULL UNIQUE,
    owner      TEXT    NOT NULL,
    session_id TEXT    NOT NULL,
    run        INTEGER NOT NULL,
    model      TEXT    NOT NULL,
    batch_id   TEXT,
    max_tokens INTEGER NOT NULL,
    size_bytes BIGINT  NOT NULL,
    alone      INTEGER NOT NULL DEFAULT 0 CHECK (alone IN (0, 1)),
    given_up   INTEGER NOT NULL DEFAULT 0 CHECK (given_up IN (0, 1)),
    made_at_us BIGINT  NOT NULL,
    params     BLOB,
    result     BLOB,
    PRIMARY KEY (task_id, step, attempt)
);
CREATE INDEX batch_items_waiting ON batch_items (made_at_us) WHERE batch_id IS NULL;
CREATE INDEX batch_items_of_batch ON batch_items (batch_id) WHERE batch_id IS NOT NULL;
CREATE INDEX batch_items_given_up ON batch_items (task_id) WHERE given_up = 1;
