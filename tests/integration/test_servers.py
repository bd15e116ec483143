"""The test servers themselves: they serve, keep data over a restart, and come back for the next test."""

from __future__ import annotations

import socket

from tests.servers import EtcdServer, NatsServer, PostgresServer, fetch


def test_postgres_keeps_its_data_over_a_crash(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    name = postgres_url.rpartition("/")[2]
    postgres_server.sql("CREATE TABLE t (x int); INSERT INTO t VALUES (7)", name)
    postgres_server.kill()
    assert not postgres_server.running
    postgres_server.start()
    assert postgres_server.sql("SELECT x FROM t", name) == "7"
    assert "vector" in postgres_server.sql("SELECT name FROM pg_available_extensions")


def test_etcd_serves_and_restarts(etcd_server: EtcdServer) -> None:
    fetch(f"{etcd_server.endpoint}/v3/kv/put", {"key": "YQ==", "value": "Yg=="})
    etcd_server.stop()
    assert fetch(f"{etcd_server.endpoint}/health") == {}
    etcd_server.start()
    found = fetch(f"{etcd_server.endpoint}/v3/kv/range", {"key": "YQ=="})
    assert found["kvs"][0]["value"] == "Yg=="


def test_etcd_is_empty_for_the_next_test(etcd_server: EtcdServer) -> None:
    assert "kvs" not in fetch(f"{etcd_server.endpoint}/v3/kv/range", {"key": "YQ=="})


def test_nats_serves_and_restarts(nats_server: NatsServer) -> None:
    host, port = nats_server.url.removeprefix("nats://").split(":")
    nats_server.kill()
    nats_server.start()
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        assert connection.recv(4) == b"INFO"
