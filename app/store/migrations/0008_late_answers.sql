-- A presumed line whose answer came after all is confirmed in its place: what it had been booked at, and when that changed.
ALTER TABLE ledger_lines ADD COLUMN presumed_nano BIGINT;
ALTER TABLE ledger_lines ADD COLUMN confirmed_at_us BIGINT;
