"""The cache of answers: an equal request first, then a similar one, then the model.

What is similar enough is decided by pure modules: `variable` tells a prompt's template from what
differs, `embedder` turns that into vectors, `index` finds the nearest, `guard` refuses what differs in
a fact, `verifier` says how likely two prompts mean the same, `threshold` learns from outcomes, and
`similar` puts them together.
"""
