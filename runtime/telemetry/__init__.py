"""Structured logs, and the pages that tell health and metrics."""
