"""What a foreign hand can write into SQLite's money, and PostgreSQL would refuse."""

AMOUNT_DAMAGE: list[tuple[str, str]] = [
    (
        "account task t: spent_nano is 0.5",
        "UPDATE accounts SET spent_nano = 0.5 WHERE scope = 'task'",
    ),
    (
        "account session local/s: surplus_nano is 'much'",
        "UPDATE accounts SET surplus_nano = 'much' WHERE scope = 'session'",
    ),
    (
        "account task t: warn_at_nano is b'7'",
        "UPDATE accounts SET warn_at_nano = x'37' WHERE scope = 'task'",
    ),
    (
        "account task t: ceiling_nano is 5000000000.5",
        "UPDATE accounts SET ceiling_nano = 5000000000.5 WHERE scope = 'task'",
    ),
    (
        "reservation t/1/1: amount_nano is 100.25",
        "UPDATE ledger_lines SET amount_nano = 100.25 WHERE step = 1 AND ended = 0",
    ),
    (
        "settlement t/1/1: amount_nano is '100 USD'",
        "UPDATE ledger_lines SET amount_nano = '100 USD' WHERE ended = 1",
    ),
    (
        "settlement t/1/1: surplus_nano is 1e+30",
        "UPDATE ledger_lines SET surplus_nano = 1e30 WHERE ended = 1",
    ),
    (
        "settlement t/1/1: cache_saved_nano is 'none'",
        "UPDATE ledger_lines SET cache_saved_nano = 'none' WHERE ended = 1",
    ),
    (
        "settlement t/1/1: presumed_nano is b''",
        "UPDATE ledger_lines SET presumed_nano = x'' WHERE ended = 1",
    ),
    ("usage of local/s: spent_nano is 0.5", "UPDATE session_usage SET spent_nano = 0.5"),
    ("usage of local/s: presumed_nano is 'x'", "UPDATE session_usage SET presumed_nano = 'x'"),
    (
        "key k: month_limit_nano is 1.5",
        "INSERT INTO keys VALUES ('k', 'local', 'n', 'p', 'h', 1, NULL, 1.5, 1, NULL, NULL)",
    ),
]
"""What is said → what was changed, after a settled and an open reservation of the task `t`."""
