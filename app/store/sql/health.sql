-- name: ping
SELECT 1 AS alive;

-- name: reserved_now
SELECT COALESCE(SUM(reserved_nano), 0) AS reserved_nano FROM accounts WHERE scope = 'task' AND reserved_nano > 0;

-- name: count_tasks
SELECT COUNT(*) AS task_count, COUNT(*) - COUNT(outcome) AS unfinished_count FROM tasks;

-- name: schema_version
SELECT MAX(version) AS version FROM schema_migrations;
