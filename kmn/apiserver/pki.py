"""Keys and certificates of one cluster, and the kubeconfig that lets its owner in."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import os
import secrets
import ssl
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["Pki", "write_file", "write_kubeconfig"]

_VALID = dt.timedelta(days=365)
_CLOCK_SKEW = dt.timedelta(hours=1)
_ADMIN = "kmn-admin"
_ADMIN_GROUP = "system:masters"


@dataclass(frozen=True, slots=True)
class Pki:
    """The files of a cluster's PKI and the administrator's bearer token."""

    folder: Path
    token: str

    @classmethod
    def create(
        cls, folder: Path, *, extra_ips: Iterable[str] = (), extra_names: Iterable[str] = (),
        cluster_domain: str = "cluster.local",
    ) -> Pki:  # fmt: skip
        """Make a CA, a server certificate and the administrator's client certificate in ``folder``, all new."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        authority = _Authority()
        service = "kubernetes.default.svc"
        names = ["localhost", "kubernetes", "kubernetes.default", service, f"{service}.{cluster_domain}", *extra_names]
        server = authority.issue("kmn-apiserver", names=names, ips=["127.0.0.1", *extra_ips])
        client = authority.issue(_ADMIN, organization=_ADMIN_GROUP)
        pki = cls(folder, secrets.token_urlsafe(32))
        write_file(pki.ca_cert, authority.certificate)
        for path, content in zip((pki.server_cert, pki.server_key), server, strict=True):
            write_file(path, content)
        for path, content in zip((pki.client_cert, pki.client_key), client, strict=True):
            write_file(path, content)
        return pki

    @property
    def ca_cert(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def server_cert(self) -> Path:
        return self.folder / "apiserver.crt"

    @property
    def server_key(self) -> Path:
        return self.folder / "apiserver.key"

    @property
    def client_cert(self) -> Path:
        return self.folder / "admin.crt"

    @property
    def client_key(self) -> Path:
        return self.folder / "admin.key"

    def server_context(self) -> ssl.SSLContext:
        """TLS for the API server: a client may show a certificate, and then it must be this CA's."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.server_cert, self.server_key)
        context.load_verify_locations(self.ca_cert)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context


class _Authority:
    """A CA whose key is never written: it signs what a cluster needs at its start, and nothing later."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("kmn-ca")
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
            decipher_only=False,
        )  # fmt: skip
        builder = (
            _builder(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
        )
        self.certificate = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def issue(
        self, common_name: str, *, organization: str | None = None, names: Iterable[str] = (), ips: Iterable[str] = ()
    ) -> tuple[bytes, bytes]:
        """Certificate and key (PEM): of a server when it has names, of a client otherwise."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ips]
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if alternatives else ExtendedKeyUsageOID.CLIENT_AUTH
        authority_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            _builder(_name(common_name, organization), self._name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(authority_id, critical=False)
        )
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return certificate, private


def _name(common_name: str, organization: str | None = None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)] if organization else []
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _VALID)
    )


def write_file(path: Path, content: bytes) -> None:
    """Write a file that only its owner reads (0600), whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_kubeconfig(path: Path, cluster_name: str, url: str, pki: Pki, token: str | None = None) -> None:
    """A kubeconfig with one context, ``kmn-NAME``, holding everything inline; ``token`` defaults to the PKI's."""
    context = f"kmn-{cluster_name}"
    inline = {
        file: base64.b64encode(file.read_bytes()).decode() for file in (pki.ca_cert, pki.client_cert, pki.client_key)
    }
    user = {
        "client-certificate-data": inline[pki.client_cert],
        "client-key-data": inline[pki.client_key],
        "token": token or pki.token,
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context, "cluster": {"server": url, "certificate-authority-data": inline[pki.ca_cert]}}],
        "users": [{"name": context, "user": user}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
        "current-context": context,
    }
    write_file(path, yaml.safe_dump(config, sort_keys=False).encode())
