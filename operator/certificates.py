"""The admission webhook's certificate: made by the operator, shared by its replicas, renewed in time.

The Secret holds `tls.crt` and `tls.key` for serving, `ca.key` and `ca.crt`. While the authority changes
`ca.crt` holds the new and the old one, so that the API server trusts every replica throughout. Pure but
for the randomness of keys; `now` is passed in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SERVING_LIFE = timedelta(days=90)
SERVING_RENEWAL = timedelta(days=30)
AUTHORITY_LIFE = timedelta(days=730)
AUTHORITY_RENEWAL = timedelta(days=180)
_BACKDATED = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Certificates:
    """What the Secret holds, as PEM.

    Attributes:
        authorities: the newest first, then those still trusted.
    """

    serving: bytes
    serving_key: bytes
    authorities: bytes
    authority_key: bytes

    def as_data(self) -> dict[str, bytes]:
        """By the Secret's keys."""
        return {
            "tls.crt": self.serving,
            "tls.key": self.serving_key,
            "ca.crt": self.authorities,
            "ca.key": self.authority_key,
        }

    @classmethod
    def from_data(cls, data: Mapping[str, bytes]) -> Certificates | None:
        """From the Secret's keys; None where it is incomplete, or was changed and fits no more."""
        try:
            found = cls(data["tls.crt"], data["tls.key"], data["ca.crt"], data["ca.key"])
            serving, key = _certificate(found.serving), _key(found.serving_key)
            authority, signer = _certificate(found.authorities), _key(found.authority_key)
            serving.verify_directly_issued_by(authority)
        except (KeyError, ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
            return None
        fits = serving.public_key() == key.public_key()
        return found if fits and authority.public_key() == signer.public_key() else None


def renewed(known: Certificates | None, host: str, now: datetime) -> Certificates:
    """Certificates that are good for a while: the known ones, or new ones where they are not."""
    if known is None or not _lasts(known.authorities, AUTHORITY_RENEWAL, now):
        authority, key = _authority(now)
        old = b"" if known is None else _first(known.authorities)
        authorities = _pem(authority) + old
    else:
        if _lasts(known.serving, SERVING_RENEWAL, now) and _names(known.serving, host):
            return known
        authority, key = _certificate(known.authorities), _key(known.authority_key)
        authorities = known.authorities
    serving, serving_key = _serving(authority, key, host, now)
    return Certificates(_pem(serving), _key_pem(serving_key), authorities, _key_pem(key))


def _authority(now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "seedbed-webhook-ca")])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    built = (
        _builder(name, name, key.public_key(), now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return built, key


def _serving(
    authority: x509.Certificate, key: ec.EllipticCurvePrivateKey, host: str, now: datetime
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    own = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    built = (
        _builder(name, authority.subject, own.public_key(), now, SERVING_LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(issuer, critical=False)
        .sign(key, hashes.SHA256())
    )
    return built, own


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    now: datetime,
    life: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + life)
    )


def _lasts(pem: bytes, margin: timedelta, now: datetime) -> bool:
    return _certificate(pem).not_valid_after_utc > now + margin


def _names(pem: bytes, host: str) -> bool:
    found = _certificate(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return host in found.value.get_values_for_type(x509.DNSName)


def _first(pem: bytes) -> bytes:
    return _pem(_certificate(pem))


def _certificate(pem: bytes) -> x509.Certificate:
    """The first of a bundle."""
    return x509.load_pem_x509_certificate(pem)


def _key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    loaded = serialization.load_pem_private_key(pem, None)
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise TypeError("expected a key on an elliptic curve, as this module makes them")
    return loaded


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
