-- What caching saved on a line: its price without caching, less what it cost; negative where a write was never read.
ALTER TABLE ledger_lines ADD COLUMN cache_saved_nano BIGINT NOT NULL DEFAULT 0;
ALTER TABLE session_usage ADD COLUMN cache_saved_nano BIGINT NOT NULL DEFAULT 0;
