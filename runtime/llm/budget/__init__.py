"""Budgets: money is held before a model is asked, and what the call has cost is written after it.

`purse` decides, purely; `teller` speaks with the ledger for all purses; `limits` knows the budgets;
`stage` is the part of the chain; `publisher` tells operator and engine what is spent.
"""
