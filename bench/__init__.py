"""The figures of the README, rerunnable by anyone: `make bench`.

upstream   a fast fake of the Messages API, the same for every contender
bare       the contenders: the SDK's loop as an engineer writes it by hand
service    the service as a real process, with its defaults
cpu        CPU milliseconds per task, contenders in turn, fresh processes each round
posts      POST /tasks alone
ledger     one reserve + settle pair
start      start-up, memory, idling
noise      how steady the machine was meanwhile
report     the table
"""
