-- What `doctor` reads of the dispatcher's table, in the snapshot of everything else. Only read, and by nobody else:
-- see `app.doctor.tickets`. A ticket's id is its task's, with the number of runs it has had behind a slash, if any.

-- name: ticket_columns
-- Those of its columns that may be read; none where there is no such table.
SELECT a.attname::TEXT AS name, format_type(a.atttypid, NULL) AS type
FROM pg_namespace AS n JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = 'workflow_status'
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE n.nspname = 'dbos' AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT');

-- name: tickets_of_line
-- The first in line, as the sweep sees them, with their tickets; those that could have been taken at `before_us`.
SELECT line.id, line.available_at_us, s.status, s.executor_id, s.name, s.queue_name, s.application_version,
    s.application_name, s.started_at_epoch_ms
FROM (SELECT id, available_at_us, CASE WHEN run_count > 0 THEN id || '/' || run_count ELSE id END AS ticket
    FROM tasks WHERE status = 'queued' AND held_by IS NULL ORDER BY turn_called DESC, rank_us, id LIMIT :limit) AS line
LEFT JOIN dbos.workflow_status AS s ON s.workflow_uuid = line.ticket COLLATE "default"
WHERE line.available_at_us <= :before_us;

-- name: tickets_left
-- Tickets of runs that are over since before `before_ms`: ended ones, and those that are held or stranded for nothing.
-- Whoever waits in line for nothing comes to a worker, and ends there.
SELECT o.workflow_uuid, o.status, o.since_ms
FROM (SELECT s.workflow_uuid, s.status, CASE s.status WHEN 'PENDING' THEN s.started_at_epoch_ms
        WHEN 'ENQUEUED' THEN s.created_at WHEN 'DELAYED' THEN s.created_at
        ELSE COALESCE(s.completed_at, s.updated_at) END AS since_ms
    FROM dbos.workflow_status AS s
    WHERE s.name = :name AND (s.status NOT IN ('PENDING', 'ENQUEUED', 'DELAYED') OR ((s.status = 'PENDING'
            OR s.queue_name IS DISTINCT FROM :queue OR s.application_version <> :version)
        AND NOT EXISTS (SELECT 1 FROM tasks AS t
            WHERE t.id = split_part(s.workflow_uuid, '/', 1) COLLATE "C" AND s.workflow_uuid = (CASE
                WHEN t.status = 'queued' AND t.run_count > 0 THEN t.id || '/' || t.run_count
                WHEN t.status IN ('running', 'cancelling') AND t.run_count > 1 THEN t.id || '/' || (t.run_count - 1)
                WHEN t.status IN ('queued', 'running', 'cancelling') THEN t.id END) COLLATE "default")))) AS o
WHERE o.since_ms < :before_ms ORDER BY o.workflow_uuid LIMIT :limit;
