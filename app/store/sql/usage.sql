-- Sums over one owner's settlements from an instant up to, and without, another; `ledger_by_time` finds
-- them; `at_us > 0` is part of its condition. No sum is kept anywhere: a total is a sum over lines.

-- name: usage_by_model
SELECT model AS name, COUNT(*) AS calls, SUM(amount_nano + surplus_nano) AS spent_nano,
    SUM(CASE WHEN kind = 'confirmed' THEN amount_nano + surplus_nano ELSE 0 END) AS confirmed_nano,
    SUM(CASE WHEN kind = 'estimated' THEN amount_nano + surplus_nano ELSE 0 END) AS estimated_nano,
    SUM(CASE WHEN kind = 'presumed' THEN amount_nano + surplus_nano ELSE 0 END) AS presumed_nano,
    SUM(input_tokens) AS input_tokens, SUM(output_tokens) AS output_tokens,
    SUM(cache_read_tokens) AS cache_read_tokens, SUM(cache_write_5m_tokens) AS cache_write_5m_tokens,
    SUM(cache_write_1h_tokens) AS cache_write_1h_tokens, SUM(web_searches) AS web_searches
FROM ledger_lines WHERE owner = :owner AND entry = 'settlement' AND at_us > 0
    AND at_us >= :from_us AND at_us < :to_us
GROUP BY model ORDER BY spent_nano DESC, name LIMIT :limit;

-- name: usage_by_session
SELECT session_id AS name, COUNT(*) AS calls, SUM(amount_nano + surplus_nano) AS spent_nano,
    SUM(CASE WHEN kind = 'confirmed' THEN amount_nano + surplus_nano ELSE 0 END) AS confirmed_nano,
    SUM(CASE WHEN kind = 'estimated' THEN amount_nano + surplus_nano ELSE 0 END) AS estimated_nano,
    SUM(CASE WHEN kind = 'presumed' THEN amount_nano + surplus_nano ELSE 0 END) AS presumed_nano,
    SUM(input_tokens) AS input_tokens, SUM(output_tokens) AS output_tokens,
    SUM(cache_read_tokens) AS cache_read_tokens, SUM(cache_write_5m_tokens) AS cache_write_5m_tokens,
    SUM(cache_write_1h_tokens) AS cache_write_1h_tokens, SUM(web_searches) AS web_searches
FROM ledger_lines WHERE owner = :owner AND entry = 'settlement' AND at_us > 0
    AND at_us >= :from_us AND at_us < :to_us
GROUP BY session_id ORDER BY spent_nano DESC, name LIMIT :limit;

-- name: usage_by_key
SELECT key_id AS name, COUNT(*) AS calls, SUM(amount_nano + surplus_nano) AS spent_nano,
    SUM(CASE WHEN kind = 'confirmed' THEN amount_nano + surplus_nano ELSE 0 END) AS confirmed_nano,
    SUM(CASE WHEN kind = 'estimated' THEN amount_nano + surplus_nano ELSE 0 END) AS estimated_nano,
    SUM(CASE WHEN kind = 'presumed' THEN amount_nano + surplus_nano ELSE 0 END) AS presumed_nano,
    SUM(input_tokens) AS input_tokens, SUM(output_tokens) AS output_tokens,
    SUM(cache_read_tokens) AS cache_read_tokens, SUM(cache_write_5m_tokens) AS cache_write_5m_tokens,
    SUM(cache_write_1h_tokens) AS cache_write_1h_tokens, SUM(web_searches) AS web_searches
FROM ledger_lines WHERE owner = :owner AND entry = 'settlement' AND at_us > 0
    AND at_us >= :from_us AND at_us < :to_us
GROUP BY key_id ORDER BY spent_nano DESC, name LIMIT :limit;

-- name: usage_by_agent
SELECT agent AS name, COUNT(*) AS calls, SUM(amount_nano + surplus_nano) AS spent_nano,
    SUM(CASE WHEN kind = 'confirmed' THEN amount_nano + surplus_nano ELSE 0 END) AS confirmed_nano,
    SUM(CASE WHEN kind = 'estimated' THEN amount_nano + surplus_nano ELSE 0 END) AS estimated_nano,
    SUM(CASE WHEN kind = 'presumed' THEN amount_nano + surplus_nano ELSE 0 END) AS presumed_nano,
    SUM(input_tokens) AS input_tokens, SUM(output_tokens) AS output_tokens,
    SUM(cache_read_tokens) AS cache_read_tokens, SUM(cache_write_5m_tokens) AS cache_write_5m_tokens,
    SUM(cache_write_1h_tokens) AS cache_write_1h_tokens, SUM(web_searches) AS web_searches
FROM ledger_lines WHERE owner = :owner AND entry = 'settlement' AND at_us > 0
    AND at_us >= :from_us AND at_us < :to_us
GROUP BY agent ORDER BY spent_nano DESC, name LIMIT :limit;

-- name: usage_by_day
-- `name` is the settlement's UTC day, counted from the epoch.
SELECT at_us / 86400000000 AS name, COUNT(*) AS calls, SUM(amount_nano + surplus_nano) AS spent_nano,
    SUM(CASE WHEN kind = 'confirmed' THEN amount_nano + surplus_nano ELSE 0 END) AS confirmed_nano,
    SUM(CASE WHEN kind = 'estimated' THEN amount_nano + surplus_nano ELSE 0 END) AS estimated_nano,
    SUM(CASE WHEN kind = 'presumed' THEN amount_nano + surplus_nano ELSE 0 END) AS presumed_nano,
    SUM(input_tokens) AS input_tokens, SUM(output_tokens) AS output_tokens,
    SUM(cache_read_tokens) AS cache_read_tokens, SUM(cache_write_5m_tokens) AS cache_write_5m_tokens,
    SUM(cache_write_1h_tokens) AS cache_write_1h_tokens, SUM(web_searches) AS web_searches
FROM ledger_lines WHERE owner = :owner AND entry = 'settlement' AND at_us > 0
    AND at_us >= :from_us AND at_us < :to_us
GROUP BY at_us / 86400000000 ORDER BY name LIMIT :limit;

-- name: settlements_page
-- Every owner's settlements, in the order of their keys, strictly after the given one. `reserved_at_us` is
-- when their reservation was written: a call is priced on the day it was reserved.
SELECT line.*, COALESCE(held.at_us, line.at_us) AS reserved_at_us FROM ledger_lines AS line
LEFT JOIN ledger_lines AS held ON held.task_id = line.task_id AND held.step = line.step
    AND held.attempt = line.attempt AND held.ended = 0
WHERE line.entry = 'settlement' AND line.at_us >= :from_us AND line.at_us < :to_us
    AND (line.task_id, line.step, line.attempt) > (:task_id, :step, :attempt)
ORDER BY line.task_id, line.step, line.attempt LIMIT :limit;
