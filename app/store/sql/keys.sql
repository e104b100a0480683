-- name: add_key
INSERT INTO keys (id, owner, name, prefix, hash, day_limit_nano, month_limit_nano, created_at_us)
VALUES (:id, :owner, :name, :prefix, :hash, :day_limit_nano, :month_limit_nano, :now_us);

-- name: find_key
-- The key that somebody presents, revoked or not.
SELECT id, owner, enabled FROM keys WHERE hash = :hash;

-- name: any_key
-- Whether there is one, revoked or not: revoking the last key must not open the door to everybody.
SELECT 1 FROM keys LIMIT 1;

-- name: read_key
SELECT * FROM keys WHERE id = :id;

-- name: read_key_limits
SELECT day_limit_nano, month_limit_nano FROM keys WHERE id = :id;

-- name: list_keys
SELECT * FROM keys ORDER BY created_at_us, id;

-- name: revoke_key
UPDATE keys SET enabled = 0, revoked_at_us = :now_us WHERE id = :id AND enabled = 1;

-- name: set_key_limits
UPDATE keys SET day_limit_nano = :day_limit_nano, month_limit_nano = :month_limit_nano WHERE id = :id;

-- name: any_limited_key
SELECT 1 FROM keys WHERE concurrency_limit IS NOT NULL LIMIT 1;

-- name: concurrency_of_key
SELECT concurrency_limit FROM keys WHERE id = :id AND concurrency_limit IS NOT NULL;

-- name: set_key_concurrency
UPDATE keys SET concurrency_limit = :concurrency_limit WHERE id = :id;
