"""How hard a task looks, and which complexity that makes it: local, deterministic, without a model call."""
