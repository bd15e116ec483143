"""Batches of offline work in OpenAI's form: taken in, worked through within a day, at the lowest price."""
