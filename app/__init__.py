"""Bursar runs Claude agents for other programs.

The packages, in the order a task meets them:

    api        POST /tasks: check, price, accept in one transaction
    queue      wait your turn; claimed tasks go to whichever worker is free
    worker     take it, keep it, give it back
    agent      think: ask the model, run its tools, until a verdict ends the task
    llm        one model call: reserve the worst case, attempt, settle the real cost
    tools      act: what a model may call
    budget     the ledger every dollar is reserved in before it is spent
    journal    every decision is one event, written with the change it tells of
    store      where rows live
    observe    log lines and metrics: views of events
    domain     the words everybody shares

`main` wires them together, `settings` reads the environment, `simulator` stands in for the model.
"""

__version__ = "0.1.0"
