"""Container images without a registry and without Docker.

    python -m hack.image build                       # all images, as archives in the cache
    python -m hack.image build --only seedbed --load dev

    python -m hack.image build --only seedbed-kernels # with torch, for SeedLayers: 5 GB

The images are `seedbed.local/seedbed`, `seedbed.local/etcd`, `seedbed.local/nats` and
`seedbed.local/postgres`, tagged `dev` unless `--tag` says otherwise. The Dockerfile at the
repository's root makes the same product image from the same lock where Docker is at hand.
"""
