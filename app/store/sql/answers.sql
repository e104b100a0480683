-- name: read_answer
SELECT digest, task_id, status, headers, body FROM answers
WHERE owner = :owner AND key = :key AND created_at_us > :expired_us;

-- name: remember_answer
-- Changes a row only when the key is new, or its answer is too old to count.
INSERT INTO answers (owner, key, digest, task_id, status, headers, body, created_at_us)
VALUES (:owner, :key, :digest, :task_id, :status, :headers, :body, :now_us)
ON CONFLICT (owner, key) DO UPDATE SET digest = excluded.digest, task_id = excluded.task_id,
    status = excluded.status, headers = excluded.headers, body = excluded.body, created_at_us = excluded.created_at_us
WHERE answers.created_at_us <= :expired_us;

-- name: amend_answer
-- Of the request that was accepted: what it was answered in the end. Changes nothing once the task was erased.
UPDATE answers SET status = :status, headers = :headers, body = :body
WHERE owner = :owner AND key = :key AND digest = :digest AND task_id = :task_id AND body IS NOT NULL;

-- name: forget_answers
-- The oldest of those that are too old to count.
DELETE FROM answers WHERE created_at_us <= (
    SELECT MAX(created_at_us) FROM (
        SELECT created_at_us FROM answers WHERE created_at_us <= :expired_us ORDER BY created_at_us LIMIT :limit) AS old);

-- name: erase_answers
UPDATE answers SET body = NULL WHERE task_id = :task_id;
