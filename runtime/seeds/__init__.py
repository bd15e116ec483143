"""Seed layers: a frozen torch model whose layers carry seeds, and the policy that lets them grow."""
