"""Servers for integration tests. Each starts when the first test asks for it and ends with the session.

A test may stop, kill and restart a server: the next test finds it running again. PostgreSQL gives
each test a database of its own, etcd is emptied before each test, NATS keeps what it has.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.cluster import ControlPlane
from tests.clusters import seedbed_control_plane
from tests.servers import EtcdServer, NatsServer, PostgresServer


@pytest.fixture(scope="session")
def _etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def _nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def _postgres() -> Iterator[PostgresServer]:
    # its user has to reach the folder, and pytest closes its own when another run of it starts
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        server = PostgresServer(Path(folder))
        yield server
        server.stop()


@pytest.fixture
def etcd_server(_etcd: EtcdServer) -> EtcdServer:
    """A running, empty etcd: `.endpoint`, `.stop()`, `.start()`, `.kill()`, `.compact()`."""
    _etcd.start()
    _etcd.clear()
    return _etcd


@pytest.fixture
def nats_server(_nats: NatsServer) -> NatsServer:
    """A running nats-server with JetStream: `.url`, `.stop()`, `.start()`, `.kill()`."""
    _nats.start()
    return _nats


@pytest.fixture
def postgres_server(_postgres: PostgresServer) -> PostgresServer:
    """A running PostgreSQL: `.database()`, `.sql()`, `.stop()`, `.start()`, `.kill()`."""
    _postgres.start()
    return _postgres


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty database, dropped after the test."""
    url = postgres_server.database()
    yield url
    postgres_server.start()
    postgres_server.drop(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of each kind that a store stands on."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """A real API server with Seedbed's CRDs, without nodes: `.kubectl()`, `.kubeconfig`, `.url`."""
    with seedbed_control_plane() as cluster:
        yield cluster
