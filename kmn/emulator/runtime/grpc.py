"""The little of gRPC that health checking needs: message framing, and grpc.health.v1 by hand (two fields in all)."""

from __future__ import annotations

import struct

__all__ = [
    "HEALTH_CHECK",
    "NOT_SERVING",
    "SERVING",
    "UNIMPLEMENTED",
    "check_request",
    "check_response",
    "status_of",
]

HEALTH_CHECK = "/grpc.health.v1.Health/Check"

# grpc.health.v1.HealthCheckResponse.ServingStatus
SERVING = 1
NOT_SERVING = 2

UNIMPLEMENTED = "12"  # grpc-status

_HEADER = struct.Struct(">BI")  # compressed, length


def _frame(message: bytes) -> bytes:
    return _HEADER.pack(0, len(message)) + message


def check_request(service: str) -> bytes:
    """A framed HealthCheckRequest: field 1, the service's name."""
    name = service.encode()
    if len(name) > 127:
        raise ValueError(f"gRPC probe: service: at most 127 bytes, not {len(name)}")
    return _frame(bytes((0x0A, len(name))) + name if name else b"")


def check_response(status: int) -> bytes:
    """A framed HealthCheckResponse: field 1, the status."""
    return _frame(bytes((0x08, status)))


def status_of(framed: bytes) -> int:
    """The status in a framed HealthCheckResponse; 0 (UNKNOWN) when there is none."""
    message = framed[_HEADER.size :]
    return message[1] if len(message) >= 2 and message[0] == 0x08 else 0
