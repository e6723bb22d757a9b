"""Host e1 as a client of a gateway: requests over HTTP and HTTPS, and what comes back."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import subprocess
from typing import Any

from kmn import Cluster
from kmn.emulator import netns
from kmn.ingress.certificates import KeyPair
from kmn.k8s.objects import Object

__all__ = ["OutsideClient", "certificate_secret", "der"]


def certificate_secret(name: str, pair: KeyPair, namespace: str = "default") -> Object:
    texts = {"tls.crt": pair.certificate, "tls.key": pair.key}
    data = {part: base64.b64encode(text.encode()).decode() for part, text in texts.items()}
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "kubernetes.io/tls", "data": data}


def der(pair: KeyPair) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pair.certificate)


class OutsideClient:
    """Asks at ``address``, which is to be set."""

    address: str

    def __init__(self, cluster: Cluster) -> None:
        self.netns = cluster.host("e1").netns
        self.ip = str(cluster.host("e1").ip)

    def connect(self, port: int, sni: str | None = None) -> socket.socket:
        """With TLS if there is a name to ask for."""
        with netns.entered(self.netns):
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.settimeout(5)
            sock.connect((self.address, port))
            if sni is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                sock = context.wrap_socket(sock, server_hostname=sni)
        except OSError:
            sock.close()
            raise
        return sock

    def ask(
        self,
        path: str,
        host: str = "shop.example",
        *,
        method: str = "GET",
        port: int = 80,
        tls: bool = False,
        **headers: str,
    ) -> tuple[int, dict[str, str], Object]:
        """Status, headers and what the pod tells; (0, {}, {}) when there is no answer."""
        try:
            sock = self.connect(port, host if tls else None)
        except OSError:
            return 0, {}, {}
        connection = http.client.HTTPConnection(self.address)
        connection.sock = sock
        try:
            connection.request(
                method, path, headers={"Host": host, **{k.replace("_", "-"): v for k, v in headers.items()}}
            )
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException):
            return 0, {}, {}
        finally:
            connection.close()
        found = json.loads(body) if response.status == 200 else {}
        return response.status, {name.lower(): value for name, value in response.getheaders()}, found

    def backend(self, path: str, host: str = "shop.example", **how: Any) -> str:
        """The Deployment of the pod that answers, or the status."""
        status, _, found = self.ask(path, host, **how)
        return found["pod"].split("-")[0] if status == 200 else str(status)

    def certificate(self, sni: str, port: int = 443) -> bytes:
        sock = self.connect(port, sni)
        assert isinstance(sock, ssl.SSLSocket)
        with sock:
            return sock.getpeercert(binary_form=True) or b""

    def curl(self, *arguments: str, data: bytes = b"") -> str:
        command = ["ip", "netns", "exec", self.netns, "curl", "-s", "-m", "5", "-D-", "-o/dev/null", *arguments]
        return subprocess.run(command, input=data, capture_output=True, check=False).stdout.decode()
