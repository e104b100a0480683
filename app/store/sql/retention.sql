-- Retention: the only statements that delete anything of a task. Ledger lines and accounts stay.

-- name: next_owner
SELECT MIN(owner) AS owner FROM tasks WHERE owner > :after;

-- name: prune_candidates
-- An owner's tasks in the order of their making; `due` are those that ended before the instant and have no
-- sub-tasks left.
SELECT t.id, t.created_at_us, CASE WHEN t.finished_at_us < :before_us
        AND (SELECT COUNT(*) FROM tasks AS c WHERE c.parent_id = t.id) = 0 THEN 1 ELSE 0 END AS due
FROM tasks AS t
WHERE t.owner = :owner AND (t.created_at_us, t.id) > (:after_us, :after_id) AND t.created_at_us < :before_us
ORDER BY t.created_at_us, t.id LIMIT :limit;

-- name: prune_task
DELETE FROM tasks WHERE id = :id AND outcome IS NOT NULL AND finished_at_us < :before_us
    AND NOT EXISTS (SELECT 1 FROM tasks AS c WHERE c.parent_id = :id)
RETURNING owner, session_id;

-- name: prune_answers
DELETE FROM answers WHERE task_id = :task_id;

-- name: add_pruned
INSERT INTO pruned_tasks (owner, session_id, id, pruned_at_us, events_left)
SELECT :owner, :session_id, :id, :now_us, COALESCE(MAX(seq), 0) FROM events WHERE subject = :id
RETURNING events_left;

-- name: prune_events
-- From the end, so that what is left is 1..n.
DELETE FROM events WHERE subject = :subject AND seq > :left;

-- name: set_events_left
UPDATE pruned_tasks SET events_left = :left WHERE owner = :owner AND session_id = :session_id AND id = :id;

-- name: half_pruned
SELECT owner, session_id, id, events_left FROM pruned_tasks WHERE events_left > 0 ORDER BY id LIMIT :limit;

-- name: half_pruned_task
SELECT events_left FROM pruned_tasks WHERE events_left > 0 AND id = :id;
