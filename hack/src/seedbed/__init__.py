"""Seedbed runs autonomous agents, long workflows and adaptive neural layers on Kubernetes.

Where things are:

- `seedbed.crds`: the five kinds as pydantic models; everything about their form.
- `seedbed.controllers`: one pure reconciler per kind.
- `seedbed.operator`: watches, queues, applies, elects, admits.
- `seedbed.runtime`: what runs beside the operator: engine, workers, model service, API.
- `seedbed.kernels`: torch and Triton code of the seed layers.
- `seedbed.cli`: the command `seedbed`, where the parts are put together.
"""
