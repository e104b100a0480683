"""The ledger: reserve the worst case before a call, settle the real cost after it, release what never left.

`ledger` keeps the accounts and the lines; `turns` is where calls wait that other calls' reservations block.
"""
