-- The owner's tasks by how they ended: what failed, and why.
CREATE INDEX tasks_by_outcome ON tasks (owner, outcome, created_at_us, id) WHERE outcome IS NOT NULL;
