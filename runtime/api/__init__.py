"""The HTTP API: runs, results, flags."""
