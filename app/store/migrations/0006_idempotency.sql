-- What a POST with an `Idempotency-Key` was answered, written in the transaction that accepts its task. The key of
-- the table is what makes one task of many posts. `body` is NULL once the task's content was erased.
CREATE TABLE answers (
    owner         TEXT    NOT NULL,
    key           TEXT    NOT NULL,
    digest        TEXT    NOT NULL,
    task_id       TEXT    NOT NULL,
    status        INTEGER NOT NULL,
    headers       TEXT    NOT NULL,
    body          TEXT,
    created_at_us BIGINT  NOT NULL,
    PRIMARY KEY (owner, key)
);
CREATE INDEX answers_by_age ON answers (created_at_us);
CREATE INDEX answers_by_task ON answers (task_id);
