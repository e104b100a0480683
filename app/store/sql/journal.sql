-- name: append_event
-- The next event of a subject; its number is one more than the last.
INSERT INTO events (subject, seq, type, at_us, run, data, body)
SELECT :subject, COALESCE(MAX(seq), 0) + 1, :type, :at_us, :run, :data, :body
FROM events WHERE subject = :subject
RETURNING seq;

-- name: read_events
SELECT seq, type, at_us, run, data, body FROM events
WHERE subject = :subject AND seq > :after ORDER BY seq LIMIT :limit;

-- name: lease_holds
-- Whether this run still holds its task.
SELECT 1 FROM tasks
WHERE id = :task_id AND run_count = :run AND status IN ('running', 'cancelling');

-- name: lease_may_start
-- Whether this run still holds its task, and nobody asked to cancel it.
SELECT 1 FROM tasks WHERE id = :task_id AND run_count = :run AND status = 'running';
