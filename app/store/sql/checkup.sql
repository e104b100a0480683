-- What `doctor` reads, page by page, in the order of keys.

-- name: checkup_tasks
-- Tasks with whether what they lean on is there. `blocked_free_nano` of an account that does not exist is NULL.
SELECT t.id, t.owner, t.session_id, t.status, t.step_count, t.run_count, t.lease_owner, t.parent_id,
    t.erased_at_us, t.paused_at_us, t.available_at_us, t.blocked_scope, t.blocked_id, t.blocked_needed_nano,
    t.held_by, CASE WHEN t.held_by = 'session' AND NOT EXISTS (SELECT 1 FROM tasks AS r WHERE r.owner = t.owner
            AND r.session_id = t.session_id AND r.lease_owner IS NOT NULL) THEN 1
        WHEN t.held_by = 'key' AND NOT EXISTS (SELECT 1 FROM tasks AS r WHERE r.key_id = t.key_id
            AND r.lease_owner IS NOT NULL) THEN 1 ELSE 0 END AS stuck,
    t.deadline_at_us, (SELECT MAX(expires_at_us) FROM workers) AS workers_until_us,
    w.id AS worker, w.expires_at_us AS worker_expires_at_us,
    (SELECT COUNT(*) FROM pruned_tasks AS g WHERE g.owner = t.owner AND g.session_id = t.session_id
        AND g.id = t.id) AS pruned,
    CASE WHEN t.result_json IS NULL THEN 0 ELSE 1 END AS has_result,
    CASE WHEN a.id IS NULL THEN 0 ELSE 1 END AS has_account,
    CASE WHEN s.id IS NULL OR o.id IS NULL THEN 0 ELSE 1 END AS has_session,
    CASE WHEN t.parent_id IS NULL OR p.id IS NOT NULL THEN 1 ELSE 0 END AS has_parent,
    b.limit_nano - b.spent_nano - b.surplus_nano AS blocked_free_nano
FROM tasks AS t LEFT JOIN accounts AS a ON a.scope = 'task' AND a.id = t.id
LEFT JOIN sessions AS s ON s.owner = t.owner AND s.id = t.session_id
LEFT JOIN accounts AS o ON o.scope = 'session' AND o.id = t.owner || '/' || t.session_id
LEFT JOIN workers AS w ON w.id = t.lease_owner
LEFT JOIN tasks AS p ON p.id = t.parent_id
LEFT JOIN accounts AS b ON b.scope = t.blocked_scope AND b.id = t.blocked_id
WHERE t.id > :after ORDER BY t.id LIMIT :limit;

-- name: checkup_journals
-- Journals in sums. `turn` is the number of the last entry that moved the task, times 16, plus what it was.
SELECT subject, COUNT(*) AS event_count, MIN(seq) AS first_seq, MAX(seq) AS last_seq, COUNT(body) AS body_count,
    MAX(at_us) AS last_at_us, MAX(run) AS last_run,
    SUM(CASE WHEN type = 'model_answered' THEN 1 ELSE 0 END) AS answer_count,
    SUM(CASE WHEN type = 'task_erased' THEN 1 ELSE 0 END) AS erased_count,
    MAX(CASE type WHEN 'task_accepted' THEN seq * 16 + 1 WHEN 'task_claimed' THEN seq * 16 + 2
        WHEN 'task_requeued' THEN seq * 16 + 3 WHEN 'task_paused' THEN seq * 16 + 4
        WHEN 'task_resumed' THEN seq * 16 + 5 WHEN 'cancel_requested' THEN seq * 16 + 6
        WHEN 'task_finished' THEN seq * 16 + 7 WHEN 'task_retried' THEN seq * 16 + 8 ELSE 0 END) AS turn
FROM events WHERE subject > :after AND subject <= :upto GROUP BY subject ORDER BY subject LIMIT :limit;

-- name: checkup_last_subject
SELECT MAX(subject) AS subject FROM events;

-- name: checkup_reservations
-- Reservations that nothing has ended, by task; `batched_count` of them are for an item of a batch.
SELECT task_id, COUNT(*) AS open_count, MIN(at_us) AS oldest_at_us,
    COUNT((SELECT i.custom_id FROM batch_items AS i WHERE i.task_id = held.task_id AND i.step = held.step
        AND i.attempt = held.attempt AND i.given_up = 0)) AS batched_count
FROM ledger_lines AS held
WHERE task_id > :after AND task_id <= :upto AND ended = 0 AND NOT EXISTS
    (SELECT 1 FROM ledger_lines AS line WHERE line.task_id = held.task_id AND line.step = held.step
        AND line.attempt = held.attempt AND line.ended = 1)
GROUP BY task_id;

-- name: checkup_lines
-- Lines of tasks that never were; retention takes tasks away and keeps their lines.
SELECT DISTINCT task_id FROM ledger_lines AS line
WHERE task_id > :after AND task_id <= :upto AND NOT EXISTS (SELECT 1 FROM tasks AS t WHERE t.id = line.task_id)
    AND (SELECT COUNT(*) FROM pruned_tasks AS p WHERE p.owner = line.owner AND p.session_id = line.session_id
        AND p.id = line.task_id) = 0
ORDER BY task_id LIMIT :limit;

-- name: checkup_answers
-- Answers to an `Idempotency-Key` whose task does not exist.
SELECT task_id FROM answers AS a WHERE NOT EXISTS (SELECT 1 FROM tasks AS t WHERE t.id = a.task_id)
ORDER BY task_id LIMIT :limit;

-- name: checkup_claim
-- Who took the task for this run.
SELECT data FROM events WHERE subject = :subject AND run = :run AND type = 'task_claimed' ORDER BY seq DESC LIMIT 1;

-- name: checkup_next_task
-- The first in line of those that could have been taken at `before_us`.
SELECT id, available_at_us FROM tasks WHERE status = 'queued' AND held_by IS NULL AND available_at_us <= :before_us
ORDER BY turn_called DESC, rank_us, id LIMIT 1;

-- name: checkup_slots
-- The slots of workers that live, and did at `before_us`, and how many of them are free.
SELECT COUNT(*) AS worker_count, SUM(c.slots) AS slot_count,
    SUM(CASE WHEN c.slots > c.running_count THEN c.slots - c.running_count ELSE 0 END) AS free_count
FROM (SELECT slots, (SELECT COUNT(*) FROM tasks AS t WHERE t.lease_owner = workers.id) AS running_count FROM workers
    WHERE expires_at_us > :now_us AND started_at_us <= :before_us AND slots > 0) AS c;

-- name: checkup_moves
-- Whether a run of the task has begun or ended since.
SELECT 1 FROM events WHERE subject = :subject AND at_us > :since_us AND run > 0
    AND type IN ('task_claimed', 'task_requeued', 'task_paused', 'task_finished') LIMIT 1;
