-- A burst of one session, or of one key, must not keep others waiting. `turn_called` says in which row a task that may
-- start stands: 0 in the first, one of each key (without keys: of each session); -1, one of each other session; -2 the
-- rest. Rows are taken in this order; whoever is taken lets the next one of its session, and of its key, move up.
CREATE INDEX tasks_ready_of_session ON tasks (owner, session_id, turn_called DESC, rank_us, id)
    WHERE status = 'queued' AND held_by IS NULL;
CREATE INDEX tasks_ready_of_key ON tasks (key_id, turn_called DESC, rank_us, id)
    WHERE status = 'queued' AND held_by IS NULL AND key_id IS NOT NULL;
