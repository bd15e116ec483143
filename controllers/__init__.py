"""One pure reconciler per kind: observed objects in, desired objects and status out.

Nothing here does I/O or reads a clock; `now` is passed in. So each rule is a row in a table test.
"""
