-- name: add_batch_item
INSERT INTO batch_items (task_id, step, attempt, custom_id, owner, session_id, run, model, max_tokens, size_bytes,
    made_at_us, params)
VALUES (:task_id, :step, :attempt, :custom_id, :owner, :session_id, :run, :model, :max_tokens, :size_bytes,
    :now_us, :params);

-- name: batch_items_of_task
SELECT i.*, b.provider_id, b.made_at_us AS batched_at_us FROM batch_items AS i LEFT JOIN batches AS b ON b.id = i.batch_id
WHERE i.task_id = :task_id ORDER BY i.step, i.attempt;

-- name: waiting_batch_items
-- The oldest first; `params` are not read.
SELECT custom_id, size_bytes, alone, made_at_us FROM batch_items
WHERE batch_id IS NULL AND result IS NULL ORDER BY made_at_us LIMIT :limit;

-- name: add_batch
INSERT INTO batches (id, item_count, made_at_us, due_at_us) VALUES (:id, :item_count, :now_us, :due_at_us);

-- name: put_in_batch
UPDATE batch_items SET batch_id = :batch_id WHERE custom_id = :custom_id AND batch_id IS NULL RETURNING params;

-- name: take_out_of_batch
-- It was never made: its items wait again.
UPDATE batch_items SET batch_id = NULL, alone = CASE WHEN :alone = 1 THEN 1 ELSE alone END
WHERE batch_id = :batch_id AND given_up = 0 AND result IS NULL;

-- name: given_up_items_of_batch
SELECT * FROM batch_items WHERE batch_id = :batch_id AND given_up = 1;

-- name: remove_batch
DELETE FROM batches WHERE id = :id AND (provider_id IS NULL OR :made = 1);

-- name: batch_made
UPDATE batches SET provider_id = :provider_id, due_at_us = :due_at_us WHERE id = :id AND provider_id IS NULL;

-- name: batch_of_provider
SELECT id FROM batches WHERE provider_id = :provider_id;

-- name: put_off_batch
UPDATE batches SET due_at_us = :due_at_us WHERE id = :id;

-- name: batch_cancelled
UPDATE batches SET cancelled = 1 WHERE id = :id;

-- name: take_due_batches
-- Whoever gets a row looks after it until it is due again. Nobody puts one off beyond `latest_us`: the clock was set back.
UPDATE batches SET due_at_us = :due_at_us WHERE id IN
    (SELECT id FROM batches WHERE due_at_us <= :now_us OR due_at_us > :latest_us ORDER BY due_at_us LIMIT :limit)
RETURNING *;

-- name: any_batch_item
SELECT 1 FROM batch_items LIMIT 1;

-- name: any_batch
SELECT 1 FROM batches LIMIT 1;

-- name: next_due_batch
SELECT MIN(due_at_us) AS due_at_us, MAX(due_at_us) AS latest_us FROM batches;

-- name: known_batches
SELECT provider_id FROM batches WHERE provider_id IS NOT NULL;

-- name: items_of_batch
SELECT i.custom_id, i.task_id, i.step, i.attempt, i.owner, i.session_id, COALESCE(t.run_count, i.run) AS run, i.model,
    i.given_up, b.provider_id, CASE WHEN i.result IS NULL THEN 0 ELSE 1 END AS returned
FROM batch_items AS i JOIN batches AS b ON b.id = i.batch_id LEFT JOIN tasks AS t ON t.id = i.task_id
WHERE i.batch_id = :batch_id ORDER BY i.task_id, i.step, i.attempt;

-- name: batch_item_returned
-- The first word counts.
UPDATE batch_items SET result = :result, params = NULL WHERE custom_id = :custom_id AND result IS NULL
RETURNING task_id, step, attempt, owner, session_id, run, model, max_tokens, given_up, made_at_us;

-- name: give_up_batch_item
UPDATE batch_items SET given_up = 1, params = NULL WHERE task_id = :task_id AND step = :step AND attempt = :attempt;

-- name: given_up_and_returned
SELECT * FROM batch_items WHERE given_up = 1 AND result IS NOT NULL LIMIT :limit;

-- name: remove_batch_item
DELETE FROM batch_items WHERE task_id = :task_id AND step = :step AND attempt = :attempt;

-- name: wake_batched
-- The answer is here: the task takes its place in the order.
UPDATE tasks SET in_batch = 0, held_by = NULL, available_at_us = :now_us
WHERE id = :id AND status = 'queued' AND in_batch = 1;

-- name: wait_for_batch
UPDATE tasks SET in_batch = 1 WHERE id = :id AND status = 'queued';

-- name: batched_tasks
SELECT id FROM tasks WHERE status = 'queued' AND deadline_at_us > 0 AND in_batch = 1;

-- name: batch_state
-- How many questions wait for a batch, are in one, or have come back and wait for a worker.
SELECT CASE WHEN result IS NOT NULL THEN 'returned' WHEN batch_id IS NULL THEN 'waiting' ELSE 'in_batch' END AS state,
    COUNT(*) AS item_count
FROM batch_items GROUP BY CASE WHEN result IS NOT NULL THEN 'returned' WHEN batch_id IS NULL THEN 'waiting' ELSE 'in_batch' END;
