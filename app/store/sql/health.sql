-- name: ping
SELECT 1 AS alive;

-- name: reserved_now
SELECT COALESCE(SUM(reserved_nano), 0) AS reserved_nano FROM accounts WHERE scope = 'task' AND reserved_nano > 0;
