-- name: ping
SELECT 1 AS alive;

-- name: probe_write
-- Flips the lowest bit of an instant that nobody needs to the microsecond: an update that changes nothing is not written.
UPDATE schema_migrations SET applied_at_us = applied_at_us + 1 - 2 * (applied_at_us - applied_at_us / 2 * 2)
WHERE version = 1;

-- name: reserved_now
-- What is held for calls in flight: only tasks that somebody runs have any. CROSS: begin with those.
SELECT COALESCE(SUM(a.reserved_nano), 0) AS reserved_nano
FROM tasks AS t CROSS JOIN accounts AS a
WHERE t.lease_owner IS NOT NULL AND a.scope = 'task' AND a.id = t.id;

-- name: count_tasks
SELECT COUNT(*) AS task_count, COUNT(*) - COUNT(outcome) AS unfinished_count FROM tasks;

-- name: schema_version
SELECT MAX(version) AS version FROM schema_migrations;
