"""Device features, as ``ethtool -K`` sets them: the one that is ever turned off."""

from __future__ import annotations

import fcntl
import socket
import struct
from array import array

__all__ = ["segmentation_offload_off"]

_SIOCETHTOOL = 0x8946
_ETHTOOL_STSO = 0x1F


def segmentation_offload_off(device: str) -> None:
    """Let the kernel cut what TCP sends into real packets before the device gets it (``ethtool -K DEVICE tso off``).

    ``device`` is one of the calling thread's network namespace.
    """
    value = array("I", [_ETHTOOL_STSO, 0])
    request = struct.pack("16sP", device.encode(), value.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCETHTOOL, request.ljust(40, b"\0"))
