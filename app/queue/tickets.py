"""How a ticket is written down in DBOS's table: what whoever reads it past DBOS must know, without loading that."""

QUEUE = "bursar"
"""Also the application's name."""
WORKFLOW = "run"
VERSION = "1"
"""Constant: under another version DBOS would strand what is under way. What a ticket means may never change."""
ENQUEUED = "ENQUEUED"
WAITING = (ENQUEUED, "DELAYED")
HELD = "PENDING"
ENDED = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
