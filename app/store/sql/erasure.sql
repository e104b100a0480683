-- The only statements that take anything out of the journal or a task's row: content, on the owner's word, and of
-- tasks that have ended. What a task was, did and cost is never touched.

-- name: erase_task
UPDATE tasks SET spec = :spec, result_json = NULL, error_json = :error_json, erased_at_us = :now_us
WHERE id = :id AND outcome IS NOT NULL AND erased_at_us IS NULL;

-- name: erase_bodies
UPDATE events SET body = NULL WHERE subject = :subject AND body IS NOT NULL;

-- name: erase_data
UPDATE events SET data = :data WHERE subject = :subject AND seq = :seq;
