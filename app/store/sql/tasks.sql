-- name: open_session
INSERT INTO sessions (owner, id, created_at_us) VALUES (:owner, :id, :now_us)
ON CONFLICT (owner, id) DO NOTHING;

-- name: read_session
SELECT s.id, s.created_at_us, a.limit_nano, a.spent_nano + a.surplus_nano AS spent_nano, a.reserved_nano,
    (SELECT COUNT(*) FROM tasks AS t WHERE t.owner = s.owner AND t.session_id = s.id) AS task_count
FROM sessions AS s JOIN accounts AS a ON a.scope = 'session' AND a.id = s.owner || '/' || s.id
WHERE s.owner = :owner AND s.id = :id;

-- name: insert_task
INSERT INTO tasks (id, owner, session_id, status, spec, priority, created_at_us, available_at_us, deadline_at_us,
    parent_id)
VALUES (:id, :owner, :session_id, 'queued', :spec, :priority, :now_us, :now_us, :deadline_at_us, :parent_id);

-- name: count_subtasks
SELECT COUNT(*) AS subtask_count FROM tasks WHERE parent_id = :parent_id AND owner = :owner;

-- name: read_task
SELECT t.*, a.limit_nano, a.spent_nano + a.surplus_nano AS spent_nano, a.reserved_nano
FROM tasks AS t JOIN accounts AS a ON a.scope = 'task' AND a.id = t.id
WHERE t.id = :id AND t.owner = :owner;

-- name: list_tasks
-- Newest first, strictly before (before_us, before_id). One query per filter, so that each has its index.
SELECT t.*, a.limit_nano, a.spent_nano + a.surplus_nano AS spent_nano, a.reserved_nano
FROM tasks AS t JOIN accounts AS a ON a.scope = 'task' AND a.id = t.id
WHERE t.owner = :owner
  AND (t.created_at_us < :before_us OR (t.created_at_us = :before_us AND t.id < :before_id))
ORDER BY t.created_at_us DESC, t.id DESC LIMIT :limit;

-- name: list_tasks_by_status
SELECT t.*, a.limit_nano, a.spent_nano + a.surplus_nano AS spent_nano, a.reserved_nano
FROM tasks AS t JOIN accounts AS a ON a.scope = 'task' AND a.id = t.id
WHERE t.owner = :owner AND t.status = :status
  AND (t.created_at_us < :before_us OR (t.created_at_us = :before_us AND t.id < :before_id))
ORDER BY t.created_at_us DESC, t.id DESC LIMIT :limit;

-- name: list_tasks_by_session
SELECT t.*, a.limit_nano, a.spent_nano + a.surplus_nano AS spent_nano, a.reserved_nano
FROM tasks AS t JOIN accounts AS a ON a.scope = 'task' AND a.id = t.id
WHERE t.owner = :owner AND t.session_id = :session_id
  AND (t.created_at_us < :before_us OR (t.created_at_us = :before_us AND t.id < :before_id))
ORDER BY t.created_at_us DESC, t.id DESC LIMIT :limit;

-- name: list_tasks_by_session_and_status
SELECT t.*, a.limit_nano, a.spent_nano + a.surplus_nano AS spent_nano, a.reserved_nano
FROM tasks AS t JOIN accounts AS a ON a.scope = 'task' AND a.id = t.id
WHERE t.owner = :owner AND t.session_id = :session_id AND t.status = :status
  AND (t.created_at_us < :before_us OR (t.created_at_us = :before_us AND t.id < :before_id))
ORDER BY t.created_at_us DESC, t.id DESC LIMIT :limit;

-- name: claim_tasks
-- Whose turn in a budget's line has come goes first: those behind it cannot pass. Then the most urgent, then
-- the oldest. The run count is the fencing token: it only grows.
UPDATE tasks SET status = 'running', lease_owner = :worker, run_count = run_count + 1, turn_called = 0,
    started_at_us = COALESCE(started_at_us, :now_us)
WHERE id IN (
    SELECT id FROM tasks WHERE status = 'queued' AND available_at_us <= :now_us
    ORDER BY turn_called DESC, priority, created_at_us, id LIMIT :limit)
RETURNING *;

-- name: requeue_task
UPDATE tasks SET status = 'queued', lease_owner = NULL, available_at_us = :available_at_us
WHERE id = :id AND run_count = :run AND status = 'running';

-- name: pause_task
-- It waits until the account that blocks it can pay, or until its window is over.
UPDATE tasks SET status = 'paused', lease_owner = NULL, paused_json = :paused_json, paused_at_us = :now_us,
    available_at_us = :available_at_us, blocked_scope = :blocked_scope, blocked_id = :blocked_id,
    blocked_needed_nano = :blocked_needed_nano
WHERE id = :id AND run_count = :run AND status = 'running';

-- name: resumable_tasks
-- Paused tasks whose window is over, or whose budget can pay by now: looked up budget by budget, not task by task.
SELECT id FROM tasks WHERE id IN (
    SELECT id FROM tasks WHERE status = 'paused' AND available_at_us <= :now_us
    UNION
    SELECT t.id FROM (SELECT DISTINCT blocked_scope, blocked_id FROM tasks WHERE status = 'paused') AS b
    JOIN accounts AS a ON a.scope = b.blocked_scope AND a.id = b.blocked_id
    JOIN tasks AS t ON t.status = 'paused' AND t.blocked_scope = b.blocked_scope AND t.blocked_id = b.blocked_id
        AND t.blocked_needed_nano <= a.limit_nano - a.spent_nano - a.surplus_nano)
ORDER BY priority, created_at_us, id LIMIT :limit;

-- name: resume_task
-- The deadline stood still while the task was paused.
UPDATE tasks SET status = 'queued', paused_json = NULL, available_at_us = :now_us,
    deadline_at_us = deadline_at_us + CASE WHEN paused_at_us < :now_us THEN :now_us - paused_at_us ELSE 0 END
WHERE id = :id AND status = 'paused'
RETURNING session_id, owner, run_count, paused_at_us;

-- name: make_available
UPDATE tasks SET turn_called = 1,
    available_at_us = CASE WHEN available_at_us > :now_us THEN :now_us ELSE available_at_us END
WHERE id = :id AND status = 'queued' AND turn_called = 0;

-- name: wake_parked
-- Not those that wait for an instant that somebody named.
UPDATE tasks SET available_at_us = :now_us
WHERE status = 'queued' AND available_at_us > :now_us AND (run_count > 0 OR available_at_us <= created_at_us);

-- name: record_step
UPDATE tasks SET step_count = :step WHERE id = :id AND run_count = :run AND status IN ('running', 'cancelling');

-- name: finish_task
UPDATE tasks SET status = :status, outcome = :outcome, finished_at_us = :now_us, lease_owner = NULL,
    paused_json = NULL, result_json = :result_json, result_partial = :result_partial, error_json = :error_json
WHERE id = :id AND run_count = :run AND status IN ('queued', 'running', 'paused', 'cancelling')
RETURNING step_count, created_at_us;

-- name: request_cancel
UPDATE tasks SET status = 'cancelling' WHERE id = :id AND owner = :owner AND status = 'running';

-- name: held_tasks
-- What a dead process left: in the embedded store nobody else can hold a task.
SELECT id, owner, session_id, status, run_count FROM tasks
WHERE lease_owner IS NOT NULL AND lease_owner <> :worker ORDER BY created_at_us, id;

-- name: expired_tasks
SELECT id, owner, session_id, run_count FROM tasks
WHERE status = 'queued' AND deadline_at_us <= :now_us LIMIT :limit;

-- name: queue_state
SELECT priority, COUNT(*) AS depth, MIN(created_at_us) AS oldest_at_us FROM tasks
WHERE status = 'queued' GROUP BY priority;

-- name: waiting_tasks
SELECT id, created_at_us, available_at_us FROM tasks WHERE status = 'queued';

-- name: paused_tasks
SELECT id FROM tasks WHERE status = 'paused';

-- name: ended_tasks
-- The owner's latest tasks that have ended, and what each cost.
SELECT t.spec, a.spent_nano + a.surplus_nano AS spent_nano
FROM tasks AS t JOIN accounts AS a ON a.scope = 'task' AND a.id = t.id
WHERE t.owner = :owner AND t.finished_at_us IS NOT NULL
ORDER BY t.created_at_us DESC, t.id DESC LIMIT :limit;
