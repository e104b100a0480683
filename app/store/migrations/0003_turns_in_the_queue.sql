-- Who is next. `rank_us` is fixed when a task becomes due: that instant, and one interval for each level of
-- priority, so that whoever waits long enough goes before newcomers of any priority. `held_by` says what keeps
-- a queued task out of the order: its time has not come, or its session or key has as many running as it may.
ALTER TABLE tasks ADD COLUMN due_at_us BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN rank_us BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN held_by TEXT CHECK (held_by IN ('time', 'session', 'key'));
ALTER TABLE tasks ADD COLUMN key_id TEXT;
UPDATE tasks SET due_at_us = created_at_us, rank_us = created_at_us + priority * 60000000,
    held_by = CASE WHEN status = 'queued' THEN 'time' END
WHERE status IN ('queued', 'running', 'paused', 'cancelling');

DROP INDEX tasks_waiting;
CREATE INDEX tasks_ready ON tasks (turn_called DESC, rank_us, id) WHERE status = 'queued' AND held_by IS NULL;
CREATE INDEX tasks_not_due ON tasks (available_at_us) WHERE status = 'queued' AND held_by = 'time';
CREATE INDEX tasks_held_by_session ON tasks (owner, session_id, turn_called DESC, rank_us, id)
    WHERE status = 'queued' AND held_by = 'session';
CREATE INDEX tasks_held_by_key ON tasks (key_id, turn_called DESC, rank_us, id)
    WHERE status = 'queued' AND held_by = 'key';
CREATE INDEX tasks_running_of_session ON tasks (owner, session_id) WHERE lease_owner IS NOT NULL;
CREATE INDEX tasks_running_of_key ON tasks (key_id) WHERE lease_owner IS NOT NULL AND key_id IS NOT NULL;

-- How many of a key's tasks may run at once; NULL: what the service's setting says.
ALTER TABLE keys ADD COLUMN concurrency_limit INTEGER CHECK (concurrency_limit > 0);
CREATE INDEX keys_limited ON keys (id) WHERE concurrency_limit IS NOT NULL;
