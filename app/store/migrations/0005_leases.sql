-- Who may hold tasks: one row a process, renewed by its heartbeat. `beat_count` grows with each renewal, so that
-- others see it live whatever the clocks say. A task whose `lease_owner` has no row here belongs to nobody.
CREATE TABLE workers (
    id            TEXT    NOT NULL PRIMARY KEY,
    slots         INTEGER NOT NULL CHECK (slots >= 0),
    started_at_us BIGINT  NOT NULL,
    expires_at_us BIGINT  NOT NULL,
    beat_count    BIGINT  NOT NULL DEFAULT 0
);

-- Runs in a row that a crash or a lost lease ended without one more finished step.
ALTER TABLE tasks ADD COLUMN crash_count INTEGER NOT NULL DEFAULT 0;
