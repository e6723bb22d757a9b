"""Short HTTP requests: nginx in one network namespace, wrk in another."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Load", "UnreadableOutput", "client_ports", "configuration", "load", "parse", "require", "serving"]

_CONNECTIONS = 16  # requests under way at a time
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
_READY_TIMEOUT = 5.0
_PATIENCE = 20.0  # seconds that wrk may take for its first connection


class UnreadableOutput(RuntimeError):
    """wrk printed no figures."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of wrk found. A latency is from a request to its answer: connecting is not in it."""

    rate: float  # requests a second
    p50: float  # seconds
    p99: float  # seconds
    errors: int  # connections or requests that failed


def require() -> None:
    """Raises RuntimeError when a program is not installed."""
    missing = [program for program in ("wrk", "nginx") if shutil.which(program) is None]
    if missing:
        raise RuntimeError(f"{', '.join(missing)}: not installed (apt-get install wrk nginx-light)")


def load(client: str, address: str, port: int, seconds: int, *, close: bool) -> Load:
    """Ask from namespace ``client`` for ``seconds``; ``close``: a connection for each request.

    Raises UnreadableOutput with wrk's own words when it is refused. When it cannot even begin for want of an answer,
    its rate is zero.
    """
    argv = ["ip", "netns", "exec", client, "wrk", "-t1", f"-c{_CONNECTIONS}", f"-d{seconds}s", "--latency"]
    argv += ["-H", f"Connection: {'close' if close else 'keep-alive'}", f"http://{address}:{port}/"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + _PATIENCE)
    except subprocess.TimeoutExpired as error:
        return Load(0.0, error.timeout, error.timeout, 1)
    return parse(done.stdout + done.stderr)


def parse(output: str) -> Load:
    """The figures that ``wrk --latency`` prints."""
    rate = re.search(r"^Requests/sec:\s+([\d.]+)", output, re.MULTILINE)
    quantiles = dict(re.findall(r"^\s+(\d+)%\s+([\d.]+[a-z]+) *$", output, re.MULTILINE))
    if rate is None or not {"50", "99"} <= quantiles.keys():
        raise UnreadableOutput(f"wrk: {output.strip()[-500:] or 'no output'}")
    sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    errors = sum(map(int, sockets.groups())) if sockets else 0
    errors += int(refused.group(1)) if refused else 0
    return Load(float(rate.group(1)), _seconds(quantiles["50"]), _seconds(quantiles["99"]), errors)


def _seconds(text: str) -> float:
    """``193.00us``, ``1.25ms``, ``1.02s``."""
    number = text.rstrip("umsh")
    return float(number) * _UNITS[text.removeprefix(number)]


def configuration(ports: Iterable[int], folder: Path) -> str:
    """nginx.conf of a server that answers every request from memory, in one process."""
    listen = " ".join(f"listen {port} backlog=4096;" for port in ports)
    return f"""daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 1000; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{ {listen} location / {{ return 200 "ok\\n"; }} }}
}}
"""


def client_ports(netns: str, ports: str = "1024 65000") -> None:
    """The ports that connections from a namespace get."""
    argv = ["ip", "netns", "exec", netns, "sysctl", "-qw", f"net.ipv4.ip_local_port_range={ports}"]
    subprocess.run(argv, check=True)


@contextmanager
def serving(netns: str, ports: Iterable[int]) -> Iterator[None]:
    """nginx in a namespace, on all its addresses. Raises RuntimeError with nginx's words when it does not start."""
    ports = list(ports)
    with tempfile.TemporaryDirectory(prefix="kmn-nginx") as name:
        folder = Path(name)
        (folder / "nginx.conf").write_text(configuration(ports, folder))
        argv = ["ip", "netns", "exec", netns]
        argv += ["setpriv", "--pdeathsig", "KILL"]  # whatever ends this process ends nginx
        argv += ["nginx", "-e", "stderr", "-p", name, "-c", f"{name}/nginx.conf"]
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + _READY_TIMEOUT
            while not _listening(netns, ports):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"nginx in {netns}: {(folder / 'log').read_text()[-1000:] or 'not listening'}")
                time.sleep(0.02)
            yield
        finally:
            server.kill()
            server.wait()


def _listening(netns: str, ports: list[int]) -> bool:
    argv = ["ip", "netns", "exec", netns, "ss", "-Hltn"]
    lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    return set(ports) <= {int(line.split()[3].rpartition(":")[2]) for line in lines}
