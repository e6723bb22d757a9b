"""Certificates: out of Secrets, checked so that Envoy gets none that it would refuse; and the one to fall back on."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import re
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kmn.k8s.objects import Object, describe

__all__ = ["KeyPair", "key_pair_of", "self_signed"]

_BLOCK = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_LIFE = dt.timedelta(days=365)


class KeyPair(NamedTuple):
    """PEM texts: the certificate (and those that lead to its authority), and its private key."""

    certificate: str
    key: str


def key_pair_of(secret: Object) -> KeyPair:
    """What a Secret of type kubernetes.io/tls holds. Raises ValueError, naming the field, for what cannot be used."""
    certificate, key = (_text(secret, name) for name in ("tls.crt", "tls.key"))
    try:
        chain = [x509.load_pem_x509_certificate(block.encode()) for block in _BLOCK.findall(certificate)]
        own = chain[0]
    except (ValueError, IndexError):
        raise ValueError(f"{describe(secret)}: data[tls.crt]: no certificate in PEM") from None
    try:
        private = serialization.load_pem_private_key(key.encode(), password=None)
    except (ValueError, TypeError):
        raise ValueError(f"{describe(secret)}: data[tls.key]: no private key in PEM, or one with a password") from None
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    if own.public_key().public_bytes(encoding, form) != private.public_key().public_bytes(encoding, form):
        raise ValueError(f"{describe(secret)}: data[tls.key] is not the key of the certificate in data[tls.crt]")
    return KeyPair(certificate, key)


def _text(secret: Object, name: str) -> str:
    try:
        text = base64.b64decode((secret.get("data") or {})[name], validate=True).decode()
    except KeyError:
        raise ValueError(f"{describe(secret)}: data[{name}] is missing") from None
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{describe(secret)}: data[{name}]: {error}") from None
    return text


def self_signed(name: str) -> KeyPair:
    """A new certificate that nobody should trust, for a year, under this name."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begin = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + _LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("ingress.local")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return KeyPair(certificate.public_bytes(pem).decode(), private.decode())
