-- When the prompts, answers and tool data of a task that has ended were erased. Its money and its skeleton stay.
ALTER TABLE tasks ADD COLUMN erased_at_us BIGINT CHECK (erased_at_us IS NULL OR finished_at_us IS NOT NULL);
