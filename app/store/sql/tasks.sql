-- name: open_session
INSERT INTO sessions (owner, id, created_at_us) VALUES (:owner, :id, :now_us)
ON CONFLICT (owner, id) DO NOTHING;

-- name: read_session
SELECT s.id, s.created_at_us, s.task_count, a.limit_nano, a.spent_nano + a.surplus_nano AS spent_nano,
    a.reserved_nano
FROM sessions AS s JOIN accounts AS a ON a.scope = 'session' AND a.id = s.owner || '/' || s.id
WHERE s.owner = :owner AND s.id = :id;

-- name: count_task
-- One more task of its session.
UPDATE sessions SET task_count = task_count + 1 WHERE owner = :owner AND id = :session_id;

-- name: insert_task
-- `turn_called` says in which row it stands: 0 is the first of its key (without one: of its session), -1 the first of
-- its session where another session of its key is in front, -2 behind others of its session.
INSERT INTO tasks (id, owner, session_id, status, spec, priority, created_at_us, available_at_us, due_at_us, rank_us,
    held_by, deadline_at_us, parent_id, key_id, turn_called)
VALUES (:id, :owner, :session_id, 'queued', :spec, :priority, :now_us, :due_at_us, :due_at_us, :rank_us,
    :held_by, :deadline_at_us, :parent_id, :key_id,
    CASE WHEN :due_at_us > :now_us THEN 0
    WHEN EXISTS (SELECT 1 FROM tasks AS s WHERE s.status = 'queued' AND s.held_by IS NULL AND s.owner = :owner
        AND s.session_id = :session_id AND s.turn_called >= -1 AND (s.rank_us, s.id) < (:rank_us, :id)) THEN -2
    WHEN EXISTS (SELECT 1 FROM tasks AS k WHERE k.status = 'queued' AND k.held_by IS NULL AND k.key_id = :key_id
        AND k.turn_called >= 0 AND (k.rank_us, k.id) < (:rank_us, :id)) THEN -1
    ELSE 0 END);

-- name: fall_behind_in_session
-- A more urgent task of the session has come: those in front of it stand behind it from now on.
UPDATE tasks SET turn_called = -2
WHERE status = 'queued' AND held_by IS NULL AND owner = :owner AND session_id = :session_id
  AND turn_called BETWEEN -1 AND 0 AND (rank_us, id) > (:rank_us, :id);

-- name: fall_behind_in_key
UPDATE tasks SET turn_called = -1
WHERE status = 'queued' AND held_by IS NULL AND key_id = :key_id AND turn_called = 0
  AND (rank_us, id) > (:rank_us, :id);

-- name: any_behind
SELECT 1 FROM tasks WHERE status = 'queued' AND held_by IS NULL AND turn_called < 0 LIMIT 1;

-- name: next_of_session
-- The first of its session was taken: the next one moves up, to the end of the line there.
UPDATE tasks SET turn_called = CASE WHEN key_id IS NULL THEN 0 ELSE -1 END,
    rank_us = CASE WHEN rank_us < :now_us THEN :now_us ELSE rank_us END
WHERE id = (SELECT s.id FROM tasks AS s WHERE s.status = 'queued' AND s.held_by IS NULL AND s.owner = :owner
        AND s.session_id = :session_id AND s.turn_called = -2 ORDER BY s.rank_us, s.id LIMIT 1)
  AND NOT EXISTS (SELECT 1 FROM tasks AS f WHERE f.status = 'queued' AND f.held_by IS NULL AND f.owner = :owner
        AND f.session_id = :session_id AND f.turn_called >= -1)
RETURNING id;

-- name: next_of_key
UPDATE tasks SET turn_called = 0, rank_us = CASE WHEN rank_us < :now_us THEN :now_us ELSE rank_us END
WHERE id = (SELECT k.id FROM tasks AS k WHERE k.status = 'queued' AND k.held_by IS NULL AND k.key_id = :key_id
        AND k.turn_called = -1 ORDER BY k.rank_us, k.id LIMIT 1)
  AND NOT EXISTS (SELECT 1 FROM tasks AS f WHERE f.status = 'queued' AND f.held_by IS NULL AND f.key_id = :key_id
        AND f.turn_called >= 0)
RETURNING id;

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
  AND (t.created_at_us, t.id) < (:before_us, :before_id)
ORDER BY t.created_at_us DESC, t.id DESC LIMIT :limit;

-- name: list_tasks_by_status
SELECT t.*, a.limit_nano, a.spent_nano + a.surplus_nano AS spent_nano, a.reserved_nano
FROM tasks AS t JOIN accounts AS a ON a.scope = 'task' AND a.id = t.id
WHERE t.owner = :owner AND t.status = :status
  AND (t.created_at_us, t.id) < (:before_us, :before_id)
ORDER BY t.created_at_us DESC, t.id DESC LIMIT :limit;

-- name: list_tasks_by_session
SELECT t.*, a.limit_nano, a.spent_nano + a.surplus_nano AS spent_nano, a.reserved_nano
FROM tasks AS t JOIN accounts AS a ON a.scope = 'task' AND a.id = t.id
WHERE t.owner = :owner AND t.session_id = :session_id
  AND (t.created_at_us, t.id) < (:before_us, :before_id)
ORDER BY t.created_at_us DESC, t.id DESC LIMIT :limit;

-- name: list_tasks_by_session_and_status
SELECT t.*, a.limit_nano, a.spent_nano + a.surplus_nano AS spent_nano, a.reserved_nano
FROM tasks AS t JOIN accounts AS a ON a.scope = 'task' AND a.id = t.id
WHERE t.owner = :owner AND t.session_id = :session_id AND t.status = :status
  AND (t.created_at_us, t.id) < (:before_us, :before_id)
ORDER BY t.created_at_us DESC, t.id DESC LIMIT :limit;

-- name: release_due
-- Tasks whose time has come take their place in the order.
UPDATE tasks SET held_by = NULL WHERE id IN (
    SELECT id FROM tasks WHERE status = 'queued' AND held_by = 'time' AND available_at_us <= :now_us
    ORDER BY available_at_us LIMIT :limit);

-- name: list_tasks_by_outcome
SELECT t.*, a.limit_nano, a.spent_nano + a.surplus_nano AS spent_nano, a.reserved_nano
FROM tasks AS t JOIN accounts AS a ON a.scope = 'task' AND a.id = t.id
WHERE t.owner = :owner AND t.outcome = :outcome
  AND (t.created_at_us, t.id) < (:before_us, :before_id)
ORDER BY t.created_at_us DESC, t.id DESC LIMIT :limit;

-- name: list_tasks_by_session_and_outcome
SELECT t.*, a.limit_nano, a.spent_nano + a.surplus_nano AS spent_nano, a.reserved_nano
FROM tasks AS t JOIN accounts AS a ON a.scope = 'task' AND a.id = t.id
WHERE t.owner = :owner AND t.session_id = :session_id AND t.outcome = :outcome
  AND (t.created_at_us, t.id) < (:before_us, :before_id)
ORDER BY t.created_at_us DESC, t.id DESC LIMIT :limit;

-- name: claim_tasks
-- Whose turn in a budget's line has come goes first: those behind it cannot pass. Then row by row, and by rank. The run count
-- is the fencing token: it only grows.
UPDATE tasks SET status = 'running', lease_owner = :worker, run_count = run_count + 1, turn_called = 0,
    in_batch = 0, started_at_us = COALESCE(started_at_us, :now_us)
WHERE id IN (
    SELECT id FROM tasks WHERE status = 'queued' AND held_by IS NULL
    ORDER BY turn_called DESC, rank_us, id LIMIT :limit)
RETURNING *;

-- name: claimable_tasks
-- Who would be next, were there no limits of sessions and keys.
SELECT id, owner, session_id, key_id, run_count, rank_us, turn_called FROM tasks WHERE status = 'queued' AND held_by IS NULL
ORDER BY turn_called DESC, rank_us, id LIMIT :limit;

-- name: waiting_task
SELECT id, owner, session_id, key_id, run_count, rank_us, turn_called, held_by FROM tasks
WHERE id = :id AND status = 'queued' AND (held_by IS NULL OR held_by <> 'time' OR available_at_us <= :now_us);

-- name: claim_task
UPDATE tasks SET status = 'running', lease_owner = :worker, run_count = run_count + 1, turn_called = 0,
    held_by = NULL, in_batch = 0, started_at_us = COALESCE(started_at_us, :now_us)
WHERE id = :id AND status = 'queued'
RETURNING *;

-- name: hold_task
UPDATE tasks SET held_by = :held_by, turn_called = CASE WHEN turn_called < 0 THEN 0 ELSE turn_called END
WHERE id = :id AND status = 'queued';

-- name: running_of_session
SELECT COUNT(*) AS running_count FROM tasks
WHERE owner = :owner AND session_id = :session_id AND lease_owner IS NOT NULL;

-- name: running_of_key
SELECT COUNT(*) AS running_count FROM tasks WHERE key_id = :key_id AND lease_owner IS NOT NULL;

-- name: release_next
-- A task that ran has left: the next one of its session, and of its key, takes its place in the order.
UPDATE tasks SET held_by = NULL WHERE id IN (
    SELECT (SELECT s.id FROM tasks AS s
        WHERE s.status = 'queued' AND s.held_by = 'session' AND s.owner = t.owner AND s.session_id = t.session_id
        ORDER BY s.turn_called DESC, s.rank_us, s.id LIMIT 1)
    FROM tasks AS t WHERE t.id = :id
    UNION ALL
    SELECT (SELECT k.id FROM tasks AS k
        WHERE k.status = 'queued' AND k.held_by = 'key' AND k.key_id = t.key_id
        ORDER BY k.turn_called DESC, k.rank_us, k.id LIMIT 1)
    FROM tasks AS t WHERE t.id = :id AND t.key_id IS NOT NULL);

-- name: any_held
SELECT 1 FROM tasks WHERE status = 'queued' AND held_by = 'session'
UNION ALL SELECT 1 FROM tasks WHERE status = 'queued' AND held_by = 'key' LIMIT 1;

-- name: held_by_sessions
-- Sessions with tasks that are held back although fewer than `most` are running.
SELECT h.owner, h.session_id, :most - h.running_count AS room FROM (
    SELECT d.owner, d.session_id, (SELECT COUNT(*) FROM tasks AS r
        WHERE r.owner = d.owner AND r.session_id = d.session_id AND r.lease_owner IS NOT NULL) AS running_count
    FROM (SELECT DISTINCT owner, session_id FROM tasks WHERE status = 'queued' AND held_by = 'session') AS d) AS h
WHERE h.running_count < :most LIMIT :limit;

-- name: held_by_keys
SELECT h.key_id, h.most - h.running_count AS room FROM (
    SELECT d.key_id, COALESCE(keys.concurrency_limit, :most) AS most, (SELECT COUNT(*) FROM tasks AS r
        WHERE r.key_id = d.key_id AND r.lease_owner IS NOT NULL) AS running_count
    FROM (SELECT DISTINCT key_id FROM tasks WHERE status = 'queued' AND held_by = 'key') AS d
    LEFT JOIN keys ON keys.id = d.key_id) AS h
WHERE h.running_count < h.most LIMIT :limit;

-- name: release_of_session
UPDATE tasks SET held_by = NULL WHERE id IN (
    SELECT id FROM tasks
    WHERE status = 'queued' AND held_by = 'session' AND owner = :owner AND session_id = :session_id
    ORDER BY turn_called DESC, rank_us, id LIMIT :limit);

-- name: release_of_key
UPDATE tasks SET held_by = NULL WHERE id IN (
    SELECT id FROM tasks WHERE status = 'queued' AND held_by = 'key' AND key_id = :key_id
    ORDER BY turn_called DESC, rank_us, id LIMIT :limit);

-- name: requeue_task
UPDATE tasks SET status = 'queued', lease_owner = NULL, available_at_us = :available_at_us,
    held_by = CASE WHEN :available_at_us > :now_us THEN 'time' END, crash_count = crash_count + :crashed
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
ORDER BY rank_us, id LIMIT :limit;

-- name: resume_task
-- The deadline stood still while the task was paused.
UPDATE tasks SET status = 'queued', paused_json = NULL, available_at_us = :now_us, held_by = NULL,
    deadline_at_us = deadline_at_us + CASE WHEN paused_at_us < :now_us THEN :now_us - paused_at_us ELSE 0 END
WHERE id = :id AND status = 'paused'
RETURNING session_id, owner, run_count, paused_at_us;

-- name: make_available
UPDATE tasks SET turn_called = 1, held_by = CASE WHEN held_by = 'time' THEN NULL ELSE held_by END,
    available_at_us = CASE WHEN available_at_us > :now_us THEN :now_us ELSE available_at_us END
WHERE id = :id AND status = 'queued' AND turn_called <= 0;

-- name: wake_parked
-- Not those that wait for an instant that somebody named. The clock was set back: what was due in its future is due
-- now, or it would stand behind newcomers for as long as the jump.
UPDATE tasks SET available_at_us = :now_us,
    rank_us = CASE WHEN due_at_us > :now_us THEN rank_us - due_at_us + :now_us ELSE rank_us END,
    due_at_us = CASE WHEN due_at_us > :now_us THEN :now_us ELSE due_at_us END
WHERE status = 'queued' AND deadline_at_us > 0 AND in_batch = 0 AND available_at_us > :now_us
  AND (run_count > 0 OR available_at_us <= created_at_us);

-- name: wake_from_future
-- What waits since an instant that has not come yet: the clock was set back while nobody was there to notice. Not by the
-- latest event alone: an operator may have raised the budget since.
UPDATE tasks SET available_at_us = :now_us
WHERE status = 'queued' AND deadline_at_us > 0 AND in_batch = 0 AND available_at_us > :now_us AND run_count > 0
  AND EXISTS (SELECT 1 FROM events AS e WHERE e.subject = tasks.id AND e.at_us > :now_us);

-- name: record_step
-- Progress: the runs that crashed before it do not count any more.
UPDATE tasks SET step_count = :step, crash_count = 0
WHERE id = :id AND run_count = :run AND status IN ('running', 'cancelling');

-- name: finish_task
UPDATE tasks SET status = :status, outcome = :outcome, finished_at_us = :now_us, lease_owner = NULL,
    paused_json = NULL, result_json = :result_json, result_partial = :result_partial, error_json = :error_json
WHERE id = :id AND run_count = :run AND status IN ('queued', 'running', 'paused', 'cancelling')
RETURNING step_count, due_at_us;

-- name: retry_task
UPDATE tasks SET status = 'queued', outcome = NULL, finished_at_us = NULL, result_json = NULL, result_partial = 0,
    error_json = NULL, spec = :spec, available_at_us = :now_us, due_at_us = :now_us, rank_us = :rank_us,
    held_by = NULL, turn_called = 0, in_batch = 0, crash_count = 0, deadline_at_us = :deadline_at_us
WHERE id = :id AND owner = :owner AND status = 'failed' AND erased_at_us IS NULL;

-- name: request_cancel
UPDATE tasks SET status = 'cancelling' WHERE id = :id AND owner = :owner AND status = 'running';

-- name: expired_tasks
SELECT id, owner, session_id, key_id, run_count FROM tasks
WHERE status = 'queued' AND deadline_at_us > 0 AND deadline_at_us <= :now_us LIMIT :limit;

-- name: queue_state
-- What waits for its time counts as waiting, but is not getting old. `deadline_at_us > 0` is all that wait, and
-- leads to the index of those.
SELECT priority, COUNT(*) AS depth, MIN(CASE WHEN held_by = 'time' THEN NULL ELSE due_at_us END) AS oldest_at_us
FROM tasks WHERE status = 'queued' AND deadline_at_us > 0 AND in_batch = 0 GROUP BY priority;

-- name: waiting_tasks
SELECT id, available_at_us FROM tasks WHERE status = 'queued' AND deadline_at_us > 0 AND in_batch = 0;

-- name: paused_tasks
-- `available_at_us` leads to the index of the paused ones; without it all tasks would be looked at.
SELECT id FROM tasks WHERE status = 'paused' AND available_at_us >= 0;

-- name: ended_tasks
-- The owner's latest tasks that have ended, and what each cost.
SELECT t.spec, a.spent_nano + a.surplus_nano AS spent_nano
FROM tasks AS t JOIN accounts AS a ON a.scope = 'task' AND a.id = t.id
WHERE t.owner = :owner AND t.finished_at_us IS NOT NULL
ORDER BY t.created_at_us DESC, t.id DESC LIMIT :limit;

-- name: task_place
SELECT id, status, run_count, held_by, lease_owner FROM tasks WHERE id = :id;

-- name: cancelling_tasks
-- Of this worker's tasks, those that somebody asked to cancel.
SELECT id FROM tasks WHERE lease_owner = :worker AND status = 'cancelling';

-- name: any_due
SELECT 1 FROM tasks WHERE status = 'queued' AND held_by = 'time' AND available_at_us <= :now_us LIMIT 1;

-- name: count_waiting
SELECT COUNT(*) AS waiting_count FROM (SELECT 1 FROM tasks
    WHERE status = 'queued' AND deadline_at_us > 0 AND in_batch = 0 LIMIT :limit) AS w;

-- name: count_paused
SELECT COUNT(*) AS paused_count FROM (SELECT 1 FROM tasks WHERE status = 'paused' AND available_at_us >= 0 LIMIT :limit) AS p;
