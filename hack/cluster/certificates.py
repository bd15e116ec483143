"""The cluster's own certificate authorities and the certificates that its parts show each other.

Elliptic-curve keys (P-256), made once per cluster and kept in its folder; private keys are
readable by their owner alone.
"""

import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID_DAYS = 365
RENEW_DAYS = 7


@dataclass(frozen=True, slots=True)
class Pair:
    """Paths of a certificate and its private key, both PEM."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority in a folder; certificates are made at the first request.

    Attributes:
        folder: Where `NAME.crt` and `NAME.key` lie.
        name: The authority's file and common name.
    """

    folder: Path
    name: str

    @property
    def pair(self) -> Pair:
        """The authority's own certificate and key."""
        pair = _pair(self.folder, self.name)
        if not _usable(pair):
            key = ec.generate_private_key(ec.SECP256R1())
            subject = _subject(self.name, ())
            constraints = x509.BasicConstraints(ca=True, path_length=None)
            usage = _usage(authority=True)
            builder = (
                _builder(subject, subject, key.public_key())
                .add_extension(constraints, critical=True)
                .add_extension(usage, critical=True)
            )
            _write(pair, builder.sign(key, hashes.SHA256()), key)
        return pair

    def issue(
        self,
        name: str,
        *,
        common_name: str | None = None,
        groups: Sequence[str] = (),
        hosts: Sequence[str] = (),
    ) -> Pair:
        """A certificate for client and, where `hosts` are given, server use.

        Args:
            name: The file's name.
            common_name: The user's name to Kubernetes; the file's name when missing.
            groups: The user's groups to Kubernetes.
            hosts: Host names and IP addresses under which the server is reached.
        """
        pair = _pair(self.folder, name)
        authority = self.pair
        if _usable(pair) and pair.cert.stat().st_mtime_ns >= authority.cert.stat().st_mtime_ns:
            return pair
        signer = serialization.load_pem_private_key(authority.key.read_bytes(), None)
        issuer = x509.load_pem_x509_certificate(authority.cert.read_bytes()).subject
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = _builder(_subject(common_name or name, groups), issuer, key.public_key())
        if hosts:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
            alternatives = x509.SubjectAlternativeName([_host(host) for host in hosts])
            builder = builder.add_extension(alternatives, critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        builder = builder.add_extension(_usage(authority=False), critical=True)
        _write(pair, builder.sign(signer, hashes.SHA256()), key)
        return pair


def signing_key(folder: Path, name: str) -> Pair:
    """A key pair without a certificate, for signing tokens; `cert` is the public key."""
    pair = Pair(folder / f"{name}.pub", folder / f"{name}.key")
    if not pair.cert.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        _write_private(pair.key, key)
        pair.cert.write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
    return pair


def _pair(folder: Path, name: str) -> Pair:
    return Pair(folder / f"{name}.crt", folder / f"{name}.key")


def _usable(pair: Pair) -> bool:
    if not (pair.cert.exists() and pair.key.exists()):
        return False
    end = x509.load_pem_x509_certificate(pair.cert.read_bytes()).not_valid_after_utc
    return end - _now() > dt.timedelta(days=RENEW_DAYS)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _subject(common_name: str, groups: Sequence[str]) -> x509.Name:
    return x509.Name(
        [
            *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    # An hour back, so that a clock which is a little late still accepts it.
    begin = _now() - dt.timedelta(hours=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + dt.timedelta(days=VALID_DAYS))
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(pair: Pair, cert: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    _write_private(pair.key, key)
    pair.cert.write_bytes(cert.public_bytes(serialization.Encoding.PEM))


def _write_private(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
