"""The figures of the README, rerunnable by anyone: `make bench`.

upstream   a fast fake of the Messages API, the same for every contender
bare       the contenders: the SDK's loop as an engineer writes it by hand
service    the service as a real process, with its defaults
peers      libraries of the field, in an environment of their own (`make peers`)
contenders who is measured, each in a process of its own
cpu        CPU milliseconds per task, contenders in turn, fresh processes each round
crowd      a thousand tasks in flight over a slow model: wall time and memory
posts      POST /tasks alone
ledger     one reserve + settle pair
start      start-up, memory, idling
history    the same requests with a million finished tasks and with none (past, sides: the stores)
verbs      enqueue, claim, finish: CPU in the service and in the database
replicas   thousands of tasks in flight, in one process and on several
noise      how steady the machine was meanwhile
report     the table
"""
