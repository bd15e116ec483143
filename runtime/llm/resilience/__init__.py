"""What stands between a request and a model that fails: breaker, retries, quota, failover.

`breaker`, `retry` and `quota` are pure: they are told the time and say what to do. `targets` acts.
"""
