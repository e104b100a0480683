-- GET /usage reads this index and nothing else. With a million tasks, fetching each settlement from the table took ten
-- times as long, and half a minute from a cold disk. The condition on `at_us`, which is true of every line, keeps it from
-- those who ask for a task's lines: they have a better one, and SQLite, without statistics, would not know.
DROP INDEX ledger_by_time;
CREATE INDEX ledger_by_time ON ledger_lines (owner, at_us, model, session_id, key_id, agent, kind, amount_nano,
    surplus_nano, input_tokens, output_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens,
    web_searches, entry) WHERE entry = 'settlement' AND at_us > 0;
