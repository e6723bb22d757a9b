"""``python odd_server.py CERTIFICATE``: a backend that does what emulated containers do not, for tests of proxies.

HTTP on port 8080, and on port 8443 with the certificate and key of that PEM file.
"""

from __future__ import annotations

import json
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SEEN: list[str] = []  # paths that were asked for


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """``/status/502``, ``/sleep/3``, ``/check`` (for who has the token), WebSocket; else the request."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        SEEN.append(self.path)
        words = self.path.partition("?")[0].strip("/").split("/")
        if self.headers.get("Upgrade", "").lower() == "websocket":
            self.echo()
        elif words[0] == "status":
            self.answer(int(words[1]), body)
        elif words[0] == "sleep":
            time.sleep(float(words[1]))
            self.answer(200, body)
        elif words[0] == "check":
            self.answer(200 if self.headers.get("X-Token") == "good" else 401, body, **{"X-User": "ann"})
        else:
            self.answer(200, body)

    do_POST = do_GET  # noqa: N815

    def echo(self) -> None:
        """Not the protocol's frames: bytes as they come."""
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.end_headers()
        while data := self.connection.recv(65536):
            self.connection.sendall(data)
        self.close_connection = True

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        told = {
            "pod": "odd", "port": self.server.server_address[1], "method": self.command, "path": self.path,
            "headers": dict(self.headers), "size": len(body), "seen": SEEN,
        }  # fmt: skip
        text = json.dumps(told).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


def main() -> None:
    plain, secured = (ThreadingHTTPServer(("", port), Handler) for port in (8080, 8443))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1])
    secured.socket = context.wrap_socket(secured.socket, server_side=True)
    threading.Thread(target=plain.serve_forever, daemon=True).start()
    secured.serve_forever()


if __name__ == "__main__":
    main()
