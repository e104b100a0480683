"""Take it, keep it, give it back: slots that run claimed tasks, and what becomes of a run that stops early.

`pool` has the slots, `recovery` what a crash or an interruption left behind.
"""
