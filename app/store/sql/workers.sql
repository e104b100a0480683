-- name: add_worker
INSERT INTO workers (id, slots, started_at_us, expires_at_us) VALUES (:id, :slots, :now_us, :expires_at_us);

-- name: renew_worker
-- Even when it has expired: while the row is there, nobody has taken anything over.
UPDATE workers SET expires_at_us = :expires_at_us, beat_count = beat_count + 1 WHERE id = :id;

-- name: worker_holds
-- Whether a worker may take tasks.
SELECT 1 FROM workers WHERE id = :id AND expires_at_us > :now_us;

-- name: list_workers
SELECT id, slots, started_at_us, expires_at_us, beat_count FROM workers ORDER BY started_at_us, id;

-- name: remove_worker
-- What it held is an orphan from now on.
DELETE FROM workers WHERE id = :id;

-- name: remove_silent_worker
-- Unless it was renewed since it was looked at.
DELETE FROM workers WHERE id = :id AND beat_count = :beat_count;

-- name: remove_workers
DELETE FROM workers;

-- name: orphaned_tasks
-- What nobody holds any more although a run has begun.
SELECT id, owner, session_id, status, run_count, crash_count FROM tasks
WHERE lease_owner IS NOT NULL AND NOT EXISTS (SELECT 1 FROM workers AS w WHERE w.id = tasks.lease_owner)
ORDER BY created_at_us, id LIMIT :limit;
