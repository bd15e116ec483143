"""Routing: the cheapest model whose predicted quality meets the request's floor.

`hardness` scores a request, `predictor` says how good each model's answer will be, `router` chooses
among the able ones; `cascade` asks a cheap model first and escalates. All but the last are pure.
"""
