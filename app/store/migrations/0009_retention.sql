-- Tasks that retention took away: a ledger line whose task is neither here nor there is a mistake.
-- `events_left` is the number of its journal's last entry, until they are gone, too.
CREATE TABLE pruned_tasks (
    owner        TEXT    NOT NULL,
    session_id   TEXT    NOT NULL,
    id           TEXT    NOT NULL,
    pruned_at_us BIGINT  NOT NULL,
    events_left  INTEGER NOT NULL CHECK (events_left >= 0),
    PRIMARY KEY (owner, session_id, id)
) WITHOUT ROWID;
CREATE INDEX pruned_tasks_halfway ON pruned_tasks (id) WHERE events_left > 0;
