"""Think: the loop of model calls and tool calls that answers a task.

`loop` drives it, `verdict` decides what an answer leads to, `transcript` is what the model sees and what a
restart rebuilds from the journal.
"""
