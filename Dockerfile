# The product's image for any container engine: the same locked packages, the same wheel and the
# same settings as `python -m hack.image build`, on a base that can be changed.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /build
COPY requirements/ requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/bootstrap.lock \
 && uv pip install --quiet --no-deps --require-hashes --only-binary :all: --link-mode copy \
      --compile-bytecode --target /opt/seedbed/lib/python -r requirements/runtime.lock
COPY . .
RUN uv build --quiet --wheel --build-constraints requirements/dev.lock --require-hashes \
      --out-dir /tmp/wheel \
 && uv pip install --quiet --no-deps --compile-bytecode --target /opt/seedbed/app /tmp/wheel/*.whl \
 && mv /opt/seedbed/app/bin /opt/seedbed/bin \
 && sed -i '1s|^#!.*|#!/usr/bin/env python3|' /opt/seedbed/bin/*

FROM ${BASE} AS seedbed
# libgomp1 is what llama.cpp computes with.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates libgomp1 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/seedbed /opt/seedbed
ENV PATH=/opt/seedbed/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONPATH=/opt/seedbed/app:/opt/seedbed/lib/python \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    LANG=C.UTF-8
WORKDIR /opt/seedbed
USER 65532:65532
ENTRYPOINT ["seedbed"]

# `--target seedbed-kernels`: the product with torch, for the pods of SeedLayers.
FROM build AS build-kernels
RUN uv pip install --quiet --no-deps --require-hashes --only-binary :all: --link-mode copy \
      --compile-bytecode --target /opt/seedbed/lib/kernels -r requirements/kernels.lock

FROM seedbed AS seedbed-kernels
COPY --from=build-kernels /opt/seedbed/lib/kernels /opt/seedbed/lib/kernels
ENV PYTHONPATH=/opt/seedbed/app:/opt/seedbed/lib/python:/opt/seedbed/lib/kernels

# What is built where no target is named.
FROM seedbed
