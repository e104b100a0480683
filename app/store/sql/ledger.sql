-- name: open_account
INSERT INTO accounts (scope, id, owner, limit_nano, ceiling_nano, warn_at_nano)
VALUES (:scope, :id, :owner, :limit_nano, :limit_nano, :warn_at_nano)
ON CONFLICT (scope, id) DO NOTHING;

-- name: set_limit
-- A limit below what is spent and held is accepted: it blocks new calls. The ceiling then shrinks with them.
-- The same limit again (at every start, say) does not tell a second time what was told.
UPDATE accounts SET limit_nano = :limit_nano,
    warn_at_nano = CASE WHEN warn_at_nano IS NULL AND limit_nano = :limit_nano
                            AND spent_nano + surplus_nano >= :warn_at_nano
                        THEN NULL ELSE :warn_at_nano END,
    ceiling_nano = CASE WHEN spent_nano + reserved_nano > :limit_nano
                        THEN spent_nano + reserved_nano ELSE :limit_nano END
WHERE scope = :scope AND id = :id;

-- name: read_account
SELECT limit_nano, spent_nano, reserved_nano, surplus_nano FROM accounts WHERE scope = :scope AND id = :id;

-- name: hold
-- The guard: no row changes when the reservation would pass the limit. The schema's CHECK is the second line.
UPDATE accounts SET reserved_nano = reserved_nano + :amount_nano
WHERE scope = :scope AND id = :id
  AND spent_nano + surplus_nano + reserved_nano + :amount_nano <= limit_nano;

-- name: book
-- Ends a reservation: what was held is freed, what was spent is booked, a surplus apart.
UPDATE accounts SET reserved_nano = reserved_nano - :held_nano,
    spent_nano = spent_nano + :spent_nano, surplus_nano = surplus_nano + :surplus_nano,
    ceiling_nano = CASE WHEN reserved_nano - :held_nano + spent_nano + :spent_nano > limit_nano
                        THEN reserved_nano - :held_nano + spent_nano + :spent_nano ELSE limit_nano END
WHERE scope = :scope AND id = :id
RETURNING spent_nano + surplus_nano AS spent_nano, limit_nano, warn_at_nano;

-- name: warned
-- The soft threshold is told once; a new limit sets it again.
UPDATE accounts SET warn_at_nano = NULL WHERE scope = :scope AND id = :id;

-- name: add_reservation
-- The line of a reservation; its meters stay empty.
INSERT INTO ledger_lines (task_id, step, attempt, ended, entry, owner, session_id, run, model, price_row,
    key_id, agent, bound, scopes, amount_nano, at_us)
VALUES (:task_id, :step, :attempt, 0, 'reservation', :owner, :session_id, :run, :model, :price_row,
    :key_id, :agent, :bound, :scopes, :amount_nano, :at_us);

-- name: add_line
INSERT INTO ledger_lines (task_id, step, attempt, ended, entry, kind, owner, session_id, run, model, price_row,
    key_id, agent, bound, scopes, amount_nano, surplus_nano, input_tokens, output_tokens, cache_read_tokens,
    cache_write_5m_tokens, cache_write_1h_tokens, web_searches, usage_json, cache_saved_nano, at_us)
VALUES (:task_id, :step, :attempt, :ended, :entry, :kind, :owner, :session_id, :run, :model, :price_row,
    :key_id, :agent, :bound, :scopes, :amount_nano, :surplus_nano, :input_tokens, :output_tokens, :cache_read_tokens,
    :cache_write_5m_tokens, :cache_write_1h_tokens, :web_searches, :usage_json, :cache_saved_nano, :at_us);

-- name: presumed_line
-- By run as well: a refused run may have had the same number in mind.
SELECT task_id, owner, session_id, model, scopes, amount_nano FROM ledger_lines
WHERE task_id = :task_id AND step = :step AND attempt = :attempt AND ended = 1 AND run = :run AND kind = 'presumed';

-- name: confirm_line
-- The one change a line may see: the answer that was taken for lost came after all.
UPDATE ledger_lines SET kind = 'confirmed', presumed_nano = amount_nano, confirmed_at_us = :now_us,
    amount_nano = :amount_nano, surplus_nano = :surplus_nano, price_row = :price_row,
    input_tokens = :input_tokens, output_tokens = :output_tokens, cache_read_tokens = :cache_read_tokens,
    cache_write_5m_tokens = :cache_write_5m_tokens, cache_write_1h_tokens = :cache_write_1h_tokens,
    web_searches = :web_searches, usage_json = :usage_json, cache_saved_nano = :cache_saved_nano
WHERE task_id = :task_id AND step = :step AND attempt = :attempt AND ended = 1 AND run = :run AND kind = 'presumed';

-- name: open_reservation
-- A reservation that nothing has ended yet: what its ending repeats.
SELECT task_id, step, attempt, owner, session_id, run, model, price_row, key_id, agent, bound, scopes, amount_nano
FROM ledger_lines AS held
WHERE task_id = :task_id AND step = :step AND attempt = :attempt AND ended = 0 AND NOT EXISTS
    (SELECT 1 FROM ledger_lines AS line WHERE line.task_id = held.task_id AND line.step = held.step
        AND line.attempt = held.attempt AND line.ended = 1);

-- name: open_reservations_of_task
SELECT * FROM ledger_lines AS held
WHERE task_id = :task_id AND ended = 0 AND NOT EXISTS
    (SELECT 1 FROM ledger_lines AS line WHERE line.task_id = held.task_id AND line.step = held.step
        AND line.attempt = held.attempt AND line.ended = 1)
ORDER BY step, attempt;

-- name: usage_of_task
SELECT COUNT(*) AS calls, COALESCE(SUM(amount_nano + surplus_nano), 0) AS spent_nano,
    COALESCE(SUM(CASE WHEN kind = 'confirmed' THEN amount_nano + surplus_nano ELSE 0 END), 0) AS confirmed_nano,
    COALESCE(SUM(CASE WHEN kind = 'estimated' THEN amount_nano + surplus_nano ELSE 0 END), 0) AS estimated_nano,
    COALESCE(SUM(CASE WHEN kind = 'presumed' THEN amount_nano + surplus_nano ELSE 0 END), 0) AS presumed_nano,
    COALESCE(SUM(input_tokens), 0) AS input_tokens, COALESCE(SUM(output_tokens), 0) AS output_tokens,
    COALESCE(SUM(cache_read_tokens), 0) AS cache_read_tokens,
    COALESCE(SUM(cache_write_5m_tokens), 0) AS cache_write_5m_tokens,
    COALESCE(SUM(cache_write_1h_tokens), 0) AS cache_write_1h_tokens,
    COALESCE(SUM(cache_saved_nano), 0) AS cache_saved_nano
FROM ledger_lines WHERE task_id = :task_id AND owner = :owner AND entry = 'settlement';

-- name: count_in_session
-- One more settlement in what its session used; a correction of one counts the difference, and no call.
INSERT INTO session_usage (owner, session_id, model, calls, spent_nano, confirmed_nano, estimated_nano, presumed_nano,
    input_tokens, output_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, cache_saved_nano)
VALUES (:owner, :session_id, :model, :calls, :spent_nano, :confirmed_nano, :estimated_nano, :presumed_nano,
    :input_tokens, :output_tokens, :cache_read_tokens, :cache_write_5m_tokens, :cache_write_1h_tokens,
    :cache_saved_nano)
ON CONFLICT (owner, session_id, model) DO UPDATE SET
    calls = session_usage.calls + excluded.calls,
    spent_nano = session_usage.spent_nano + excluded.spent_nano,
    confirmed_nano = session_usage.confirmed_nano + excluded.confirmed_nano,
    estimated_nano = session_usage.estimated_nano + excluded.estimated_nano,
    presumed_nano = session_usage.presumed_nano + excluded.presumed_nano,
    input_tokens = session_usage.input_tokens + excluded.input_tokens,
    output_tokens = session_usage.output_tokens + excluded.output_tokens,
    cache_read_tokens = session_usage.cache_read_tokens + excluded.cache_read_tokens,
    cache_write_5m_tokens = session_usage.cache_write_5m_tokens + excluded.cache_write_5m_tokens,
    cache_write_1h_tokens = session_usage.cache_write_1h_tokens + excluded.cache_write_1h_tokens,
    cache_saved_nano = session_usage.cache_saved_nano + excluded.cache_saved_nano;

-- name: totals_of_session
-- The whole session, one row a model.
SELECT * FROM session_usage WHERE owner = :owner AND session_id = :session_id ORDER BY model;

-- name: usage_of_session
-- A page of the session's tasks, newest first and strictly before (before_us, before_id), with their sums.
SELECT t.id AS task_id, t.created_at_us, COUNT(l.task_id) AS calls,
    COALESCE(SUM(l.amount_nano + l.surplus_nano), 0) AS spent_nano,
    COALESCE(SUM(CASE WHEN l.kind = 'confirmed' THEN l.amount_nano + l.surplus_nano END), 0) AS confirmed_nano,
    COALESCE(SUM(CASE WHEN l.kind = 'estimated' THEN l.amount_nano + l.surplus_nano END), 0) AS estimated_nano,
    COALESCE(SUM(CASE WHEN l.kind = 'presumed' THEN l.amount_nano + l.surplus_nano END), 0) AS presumed_nano,
    COALESCE(SUM(l.input_tokens), 0) AS input_tokens, COALESCE(SUM(l.output_tokens), 0) AS output_tokens,
    COALESCE(SUM(l.cache_read_tokens), 0) AS cache_read_tokens,
    COALESCE(SUM(l.cache_write_5m_tokens), 0) AS cache_write_5m_tokens,
    COALESCE(SUM(l.cache_write_1h_tokens), 0) AS cache_write_1h_tokens,
    COALESCE(SUM(l.cache_saved_nano), 0) AS cache_saved_nano
FROM (SELECT id, created_at_us FROM tasks
      WHERE owner = :owner AND session_id = :session_id AND (created_at_us, id) < (:before_us, :before_id)
      ORDER BY created_at_us DESC, id DESC LIMIT :limit) AS t
LEFT JOIN ledger_lines AS l ON l.task_id = t.id AND l.entry = 'settlement'
GROUP BY t.id, t.created_at_us ORDER BY t.created_at_us DESC, t.id DESC;

-- name: session_usage_drifts
-- Where the kept sums are not what the settlements sum up to, and by how much.
SELECT owner, session_id, model, SUM(calls) AS calls, SUM(spent_nano) AS spent_nano,
    SUM(confirmed_nano) AS confirmed_nano, SUM(estimated_nano) AS estimated_nano, SUM(presumed_nano) AS presumed_nano,
    SUM(input_tokens) AS input_tokens, SUM(output_tokens) AS output_tokens,
    SUM(cache_read_tokens) AS cache_read_tokens, SUM(cache_write_5m_tokens) AS cache_write_5m_tokens,
    SUM(cache_write_1h_tokens) AS cache_write_1h_tokens, SUM(cache_saved_nano) AS cache_saved_nano
FROM (SELECT owner, session_id, model, calls, spent_nano, confirmed_nano, estimated_nano, presumed_nano,
          input_tokens, output_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, cache_saved_nano
      FROM session_usage
      UNION ALL
      SELECT owner, session_id, model, -1, -amount_nano - surplus_nano,
          CASE WHEN kind = 'confirmed' THEN -amount_nano - surplus_nano ELSE 0 END,
          CASE WHEN kind = 'estimated' THEN -amount_nano - surplus_nano ELSE 0 END,
          CASE WHEN kind = 'presumed' THEN -amount_nano - surplus_nano ELSE 0 END,
          -input_tokens, -output_tokens, -cache_read_tokens, -cache_write_5m_tokens, -cache_write_1h_tokens,
          -cache_saved_nano
      FROM ledger_lines WHERE entry = 'settlement' AND task_id >= '') AS both_sides
GROUP BY owner, session_id, model
HAVING SUM(calls) <> 0 OR SUM(spent_nano) <> 0 OR SUM(confirmed_nano) <> 0 OR SUM(estimated_nano) <> 0
    OR SUM(presumed_nano) <> 0 OR SUM(input_tokens) <> 0 OR SUM(output_tokens) <> 0 OR SUM(cache_read_tokens) <> 0
    OR SUM(cache_write_5m_tokens) <> 0 OR SUM(cache_write_1h_tokens) <> 0 OR SUM(cache_saved_nano) <> 0
ORDER BY owner, session_id, model;

-- name: ledger_of_task
-- Every line of a task, in the order of its attempts; bounded by its steps and their attempts.
SELECT * FROM ledger_lines WHERE task_id = :task_id AND owner = :owner ORDER BY step, attempt, ended;

-- name: ledger_of_session
-- A session's lines in the order they were written, strictly after the given one.
SELECT * FROM ledger_lines WHERE owner = :owner AND session_id = :session_id
  AND (at_us, task_id, step, attempt, ended) > (:at_us, :task_id, :step, :attempt, :ended)
ORDER BY at_us, task_id, step, attempt, ended LIMIT :limit;

-- name: sums_by_scopes
-- What a page of tasks' lines says of the balances: sums of all lines that were booked on the same accounts.
SELECT l.scopes, SUM(CASE WHEN l.entry = 'settlement' THEN l.amount_nano ELSE 0 END) AS spent_nano,
    SUM(l.surplus_nano) AS surplus_nano,
    SUM(CASE WHEN l.ended = 0 AND e.ended IS NULL THEN l.amount_nano ELSE 0 END) AS reserved_nano,
    SUM(l.amount_nano) AS amount_nano, SUM(l.cache_saved_nano) AS cache_saved_nano,
    SUM(l.presumed_nano) AS presumed_nano, COUNT(*) AS line_count
FROM ledger_lines AS l LEFT JOIN ledger_lines AS e
    ON e.task_id = l.task_id AND e.step = l.step AND e.attempt = l.attempt AND e.ended = 1 AND l.ended = 0
WHERE l.task_id > :after AND l.task_id <= :upto GROUP BY l.scopes;

-- name: end_of_lines_page
-- The last of the next tasks that have lines; NULL when there are no more.
SELECT MAX(task_id) AS task_id FROM
    (SELECT DISTINCT task_id FROM ledger_lines WHERE task_id > :after ORDER BY task_id LIMIT :limit) AS page;

-- name: accounts_page
SELECT scope, id, spent_nano, reserved_nano, surplus_nano, limit_nano, ceiling_nano, warn_at_nano FROM accounts
WHERE (scope, id) > (:scope, :id) ORDER BY scope, id LIMIT :limit;

-- name: broken_lines
-- Money that is no whole number. Only SQLite keeps such a thing.
SELECT entry, task_id, step, attempt, amount_nano, surplus_nano, cache_saved_nano, presumed_nano FROM ledger_lines
WHERE task_id > :after AND task_id <= :upto AND (CAST(amount_nano AS BIGINT) <> amount_nano
    OR CAST(surplus_nano AS BIGINT) <> surplus_nano OR CAST(cache_saved_nano AS BIGINT) <> cache_saved_nano
    OR CAST(presumed_nano AS BIGINT) <> presumed_nano)
ORDER BY task_id, step, attempt, ended LIMIT :limit;

-- name: broken_amounts
-- The same of what is neither a line nor an account.
SELECT m.place, m.name, m.amount FROM (
    SELECT 'usage of ' || owner || '/' || session_id AS place, 'spent_nano' AS name, spent_nano AS amount
        FROM session_usage
    UNION ALL SELECT 'usage of ' || owner || '/' || session_id, 'confirmed_nano', confirmed_nano FROM session_usage
    UNION ALL SELECT 'usage of ' || owner || '/' || session_id, 'estimated_nano', estimated_nano FROM session_usage
    UNION ALL SELECT 'usage of ' || owner || '/' || session_id, 'presumed_nano', presumed_nano FROM session_usage
    UNION ALL SELECT 'usage of ' || owner || '/' || session_id, 'cache_saved_nano', cache_saved_nano
        FROM session_usage
    UNION ALL SELECT 'key ' || id, 'day_limit_nano', day_limit_nano FROM keys
    UNION ALL SELECT 'key ' || id, 'month_limit_nano', month_limit_nano FROM keys
    UNION ALL SELECT 'task ' || id, 'blocked_needed_nano', blocked_needed_nano FROM tasks
        WHERE status = 'paused' AND available_at_us >= 0) AS m
WHERE CAST(m.amount AS BIGINT) <> m.amount LIMIT :limit;

-- name: cost_of_task
-- What the task's own calls cost.
SELECT COALESCE(SUM(amount_nano + surplus_nano), 0) AS cost_nano
FROM ledger_lines WHERE task_id = :task_id AND entry = 'settlement';
