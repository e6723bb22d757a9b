"""iperf between two hosts of a view, as Mininet's ``iperf`` command measures it."""

from __future__ import annotations

import re
import subprocess
import time
from typing import Any

from mininet.log import error, output

from kmn.errors import UserError

__all__ = ["iperf"]

_RATE = re.compile(r"([\d.]+ \w+/sec)")
_LISTEN_TIMEOUT = 5.0
_LISTEN_PAUSE = 0.02


def iperf(client: Any, server: Any, *, udp: bool, bandwidth: str, fmt: str | None, seconds: float,
          port: int) -> list[str]:  # fmt: skip
    """[server, client] rates; UDP: [bandwidth, server, client]. The server ends with the measurement."""
    output("*** Iperf: testing", "UDP" if udp else "TCP", "bandwidth between", client, "and", server, "\n")
    line = ["iperf", "-p", str(port), *(["-u"] if udp else []), *(["-f", fmt] if fmt else [])]
    listening = server.popen([*line, "-s"], stderr=subprocess.STDOUT, text=True)
    try:
        _wait_listening(server, listening, port, udp)
        rate = ["-b", bandwidth] if udp else []
        sent, _, _ = client.pexec([*line, "-t", str(seconds), "-c", server.IP(), *rate])
    finally:
        listening.terminate()
        received, _ = listening.communicate()
    result = [_last_rate(received), _last_rate(sent)]
    if udp:
        result.insert(0, bandwidth)
    output(f"*** Results: {result}\n")
    return result


def _wait_listening(server: Any, process: subprocess.Popen[str], port: int, udp: bool) -> None:
    deadline = time.monotonic() + _LISTEN_TIMEOUT
    query = ["ss", "-Hnl", "-u" if udp else "-t", f"sport = :{port}"]
    while not server.pexec(query)[0].strip() or process.poll() is not None:
        if process.poll() is not None or time.monotonic() > deadline:
            raise UserError(f"{server}: iperf does not listen on port {port}", "is the port in use in there?")
        time.sleep(_LISTEN_PAUSE)


def _last_rate(text: str) -> str:
    rates = _RATE.findall(text)
    if not rates:
        error(f"could not parse iperf output: {text}")
    return rates[-1] if rates else ""
