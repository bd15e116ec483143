"""The API: one pydantic model per kind, from which CRDs and reference pages are generated.

Nothing here does I/O. Everything else of Seedbed may import this package; it imports nothing of Seedbed.
"""
