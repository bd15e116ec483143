"""Calls that go to the models together: equal ones as one call, compatible ones as one batch."""
