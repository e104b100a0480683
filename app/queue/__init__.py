"""Wait your turn: `port` is the queue, `embedded` its adapter in one process, `verbs` what moves a task.

`verbs` work inside the caller's transaction: enqueue, claim, give back, finish, cancel.
"""
