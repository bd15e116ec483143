"""Expressions that may cost much: evaluated in processes of their own, under limits."""
