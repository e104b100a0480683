-- What keeps every request as quick with a million finished tasks as with none.

-- A session's tasks of one status, and the lines of a session in the order they were written.
CREATE INDEX tasks_by_session_and_status ON tasks (owner, session_id, status, created_at_us, id);
CREATE INDEX ledger_by_session ON ledger_lines (owner, session_id, at_us, task_id, step, attempt, ended);

-- Its condition is more than a claim's: a claim must take the waiting tasks in their order, from `tasks_ready`. When
-- its statistics were of a time without waiting tasks, PostgreSQL took all of them from here, and sorted.
DROP INDEX tasks_expiring;
CREATE INDEX tasks_expiring ON tasks (deadline_at_us) WHERE status = 'queued' AND deadline_at_us > 0;

-- How many tasks were ever accepted in a session: counting them took longer with each.
ALTER TABLE sessions ADD COLUMN task_count BIGINT NOT NULL DEFAULT 0;
UPDATE sessions SET task_count =
    (SELECT COUNT(*) FROM tasks WHERE tasks.owner = sessions.owner AND tasks.session_id = sessions.id);

-- What a session's settlements sum up to, by model; written with each of them. `doctor` holds it against the lines.
CREATE TABLE session_usage (
    owner                 TEXT   NOT NULL,
    session_id            TEXT   NOT NULL,
    model                 TEXT   NOT NULL,
    calls                 BIGINT NOT NULL,
    spent_nano            BIGINT NOT NULL,
    confirmed_nano        BIGINT NOT NULL,
    estimated_nano        BIGINT NOT NULL,
    presumed_nano         BIGINT NOT NULL,
    input_tokens          BIGINT NOT NULL,
    output_tokens         BIGINT NOT NULL,
    cache_read_tokens     BIGINT NOT NULL,
    cache_write_5m_tokens BIGINT NOT NULL,
    cache_write_1h_tokens BIGINT NOT NULL,
    PRIMARY KEY (owner, session_id, model)
) WITHOUT ROWID;
INSERT INTO session_usage (owner, session_id, model, calls, spent_nano, confirmed_nano, estimated_nano, presumed_nano,
    input_tokens, output_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens)
SELECT owner, session_id, model, COUNT(*), SUM(amount_nano + surplus_nano),
    SUM(CASE WHEN kind = 'confirmed' THEN amount_nano + surplus_nano ELSE 0 END),
    SUM(CASE WHEN kind = 'estimated' THEN amount_nano + surplus_nano ELSE 0 END),
    SUM(CASE WHEN kind = 'presumed' THEN amount_nano + surplus_nano ELSE 0 END),
    SUM(input_tokens), SUM(output_tokens), SUM(cache_read_tokens), SUM(cache_write_5m_tokens),
    SUM(cache_write_1h_tokens)
FROM ledger_lines WHERE entry = 'settlement' GROUP BY owner, session_id, model;
