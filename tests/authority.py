"""An authority of its own for certificates of Ingresses: what clients in tests trust."""

from __future__ import annotations

import base64
import datetime as dt
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kmn.k8s.objects import Object

__all__ = ["Authority"]

_NAME = "Authority of kmn's tests"


@dataclass
class Authority:
    """Signs certificates, and knows which one is in which Secret now."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    current: dict[str, bytes] = field(default_factory=dict)  # DER, by namespace/name of the Secret

    def __post_init__(self) -> None:
        self.certificate = _signed(_NAME, self.key, self.key, _NAME, authority=True)

    @property
    def pem(self) -> str:
        """Its own certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def secret(self, name: str, hosts: list[str]) -> Object:
        """A Secret ``namespace/name`` with a new certificate for these hosts."""
        namespace, _, short = name.partition("/")
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _signed(hosts[0], key, self.key, _NAME, hosts=hosts)
        self.current[name] = certificate.public_bytes(serialization.Encoding.DER)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        texts = {"tls.crt": certificate.public_bytes(serialization.Encoding.PEM), "tls.key": private}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": short, "namespace": namespace},
            "type": "kubernetes.io/tls",
            "data": {part: base64.b64encode(text).decode() for part, text in texts.items()},
        }

    def context(self, *, verify: bool) -> ssl.SSLContext:
        """A client's: with ``verify`` it trusts this authority, else anybody."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if verify:
            context.load_verify_locations(cadata=self.pem)
        else:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context


def _signed(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    issuer: str,
    *,
    hosts: Iterable[str] = (),
    authority: bool = False,
) -> x509.Certificate:
    begin = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    names = [x509.DNSName(host) for host in hosts]
    builder = (
        x509.CertificateBuilder()
        .subject_name(_common_name(name))
        .issuer_name(_common_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256())


@cache
def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
