"""The words everybody shares: task, session, money, errors, clock, ids. Standard library only."""
