"""Torch and Triton code of the seed layers, and nothing else."""
