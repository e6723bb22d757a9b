"""One iperf3 run between two network namespaces."""

from __future__ import annotations

import json
import subprocess
import time

__all__ = ["tcp_gbps"]


def tcp_gbps(
    client: str,
    server: str,
    address: str,
    seconds: int,
    port: int = 5201,
    *,
    listen: int | None = None,
    download: bool = False,
) -> float:
    """Gbit/s received over one TCP connection from namespace ``client`` to ``address``, served in ``server``.

    ``listen``: the server's port where the client asks for another one; ``download``: the server sends.
    Raises RuntimeError with iperf3's own words when the connection does not come about.
    """
    inside = ["ip", "netns", "exec"]
    listen = listen or port
    listener = subprocess.Popen(
        [*inside, server, "iperf3", "-s", "-1", "-p", str(listen)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 5
        while time.monotonic() < until and not _listening(server, listen):
            time.sleep(0.02)
        done = subprocess.run(
            [*inside, client, "iperf3", "-c", address, "-p", str(port), "-t", str(seconds), "-J", *["-R"] * download],
            capture_output=True,
            text=True,
            timeout=seconds + 30,
        )
        result = json.loads(done.stdout)
        if "error" in result:
            raise RuntimeError(f"iperf3 {client} -> {address}: {result['error']}")
        return float(result["end"]["sum_received"]["bits_per_second"]) / 1e9
    finally:
        listener.kill()
        listener.wait()


def _listening(namespace: str, port: int) -> bool:
    argv = ["ip", "netns", "exec", namespace, "ss", "-Hltn", f"sport = {port}"]
    return bool(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip())
