"""The webhook's certificates: good for the host, renewed in time, trusted throughout."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from seedbed.operator.certificates import (
    AUTHORITY_LIFE,
    AUTHORITY_RENEWAL,
    SERVING_LIFE,
    SERVING_RENEWAL,
    Certificates,
    renewed,
)

NOW = datetime(2026, 11, 21, tzinfo=UTC)
HOST = "seedbed-webhook.seedbed.svc"


def trusts(bundle: bytes, certificate: bytes) -> bool:
    """Whether one of the authorities signed the certificate."""
    leaf = x509.load_pem_x509_certificate(certificate)
    for authority in x509.load_pem_x509_certificates(bundle):
        try:
            leaf.verify_directly_issued_by(authority)
        except Exception:  # noqa: BLE001  # any failure means not by this one
            continue
        return True
    return False


def test_the_first_are_for_the_host_and_signed_by_the_authority() -> None:
    made = renewed(None, HOST, NOW)
    leaf = x509.load_pem_x509_certificate(made.serving)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [HOST]
    assert trusts(made.authorities, made.serving)
    assert b"PRIVATE" not in made.authorities


def test_good_ones_stay_and_the_secret_gives_them_back() -> None:
    made = renewed(None, HOST, NOW)
    assert renewed(made, HOST, NOW + timedelta(days=1)) == made
    assert Certificates.from_data(made.as_data()) == made
    assert Certificates.from_data({"tls.crt": b""}) is None


@pytest.mark.parametrize("part", ["tls.crt", "tls.key", "ca.crt", "ca.key"])
def test_a_part_that_fits_no_more_is_as_good_as_none(part: str) -> None:
    data = renewed(None, HOST, NOW).as_data()
    other = renewed(None, HOST, NOW).as_data()
    for wrong in (b"", b"nonsense", other[part], data["ca.key"] if part == "tls.crt" else b"x"):
        assert Certificates.from_data({**data, part: wrong}) is None


def test_the_serving_one_is_renewed_before_it_ends_under_the_same_authority() -> None:
    made = renewed(None, HOST, NOW)
    late = NOW + SERVING_LIFE - SERVING_RENEWAL + timedelta(hours=1)
    again = renewed(made, HOST, late)
    assert again.serving != made.serving
    assert again.authorities == made.authorities
    assert trusts(made.authorities, again.serving)


def test_another_host_gets_another_one() -> None:
    made = renewed(None, HOST, NOW)
    assert renewed(made, "other.seedbed.svc", NOW).serving != made.serving


def test_while_the_authority_changes_both_are_trusted() -> None:
    made = renewed(None, HOST, NOW)
    late = NOW + AUTHORITY_LIFE - AUTHORITY_RENEWAL + timedelta(hours=1)
    again = renewed(made, HOST, late)
    assert trusts(again.authorities, again.serving)
    assert trusts(again.authorities, made.serving), "a replica that has not looked yet"
    assert not trusts(made.authorities, again.serving)
