"""Slow links: bandwidth, delay, jitter and loss, as queueing disciplines of the kernel.

A link between a bridge and a kernel is shaped at its kernel end in both directions: what leaves on the device itself,
what arrives on an ``ifb`` device that it is redirected through. Never at the bridge's end: the userspace datapath sends
for all ports through one socket, and packets that wait in one port's queue would fill its buffer and make others drop.
A link between two routers is shaped on each end's way out.

Bandwidth is TBF, which cuts segmentation-offload packets of 64 kB into real ones before it counts them; the queue holds
50 ms. Delay, jitter and loss are netem, in front of TBF when both are asked for.
"""

from __future__ import annotations

import struct

from kmn.cluster_spec import Link
from kmn.emulator import netlink
from kmn.emulator.netlink import CREATE, EXCLUSIVE, REPLACE, Request, attribute, request

__all__ = ["cuts", "egress", "ingress", "needs_netem"]

_RTM_NEWQDISC, _RTM_NEWTFILTER = 36, 44
_TC = struct.Struct("=BxxxiIII")  # family, device index, handle, parent, info
_KIND, _OPTIONS = 1, 2
_ROOT, _INGRESS = 0xFFFFFFFF, 0xFFFFFFF1
_INGRESS_HANDLE = 0xFFFF0000
_NETEM_HANDLE, _TBF_HANDLE = 0x00010000, 0x00100000

_TBF_PARMS, _TBF_RATE64, _TBF_BURST = 1, 4, 6
_ETHERNET = 1  # link layer: the kernel computes packet times itself and wants no table
_NETEM_LATENCY64, _NETEM_JITTER64 = 10, 11
_TICK = 6  # a tick of the packet scheduler is 2**6 ns
_NETEM_PACKETS = 100_000

_QUEUE = 0.05  # seconds that a full queue holds
_QUEUE_LEAST = 30_000  # bytes: twenty full packets
_BURST = 0.0005  # seconds at full rate: timers fire at least this often
_BURST_LEAST = 3_100  # bytes: two full packets
_LARGEST_PACKET = 1 << 16  # bytes

_U32_SELECTOR, _U32_ACTIONS, _U32_TERMINAL = 5, 7, 1
_ACTION_KIND, _ACTION_OPTIONS, _MIRRED_PARMS = 1, 2, 2
_STOLEN, _EGRESS_REDIRECT = 4, 1
_ALL_PROTOCOLS = 0x0300  # htons(ETH_P_ALL)


def needs_netem(link: Link) -> bool:
    """Whether a link asks for more than bandwidth."""
    return any(value is not None for value in (link.delay, link.jitter, link.loss))


def cuts(link: Link) -> bool:
    """Whether segmentation-offload packets come out of the link as real ones."""
    return link.bandwidth is not None and _burst(link.bandwidth) < _LARGEST_PACKET


def egress(index: int, link: Link) -> list[Request]:
    """Shape what leaves on a device."""
    requests: list[Request] = []
    parent = _ROOT
    if needs_netem(link):
        requests.append(_qdisc(index, _NETEM_HANDLE, parent, "netem", _netem(link)))
        parent = _NETEM_HANDLE | 1
    if link.bandwidth is not None:
        requests.append(_qdisc(index, _TBF_HANDLE, parent, "tbf", _tbf(link.bandwidth)))
    return requests


def ingress(index: int, link: Link, ifb: str, ifb_index: int) -> list[Request]:
    """Shape what arrives on a device, by way of a new ``ifb`` device with this name and index."""
    if not link:
        return []
    return [
        netlink.dummy_add(ifb, ifb_index, "ifb"),
        *egress(ifb_index, link),
        _qdisc(index, _INGRESS_HANDLE, _INGRESS, "ingress", b""),
        _redirect(index, ifb_index),
    ]


def _qdisc(index: int, handle: int, parent: int, kind: str, options: bytes) -> Request:
    body = _TC.pack(0, index, handle, parent, 0) + attribute(_KIND, kind.encode() + b"\0")
    if options:
        body += attribute(_OPTIONS, options)
    return request(_RTM_NEWQDISC, CREATE | REPLACE, body, f"add queueing discipline {kind} on device {index}")


def _burst(bandwidth: int) -> int:
    return max(_BURST_LEAST, int(bandwidth // 8 * _BURST))


def _tbf(bandwidth: int) -> bytes:
    rate = max(1, bandwidth // 8)
    burst = _burst(bandwidth)
    queue = max(_QUEUE_LEAST, int(rate * _QUEUE))
    rate_spec = struct.pack("=BBHhHI", 0, _ETHERNET, 0, 0, 0, min(rate, 0xFFFFFFFF))
    parms = rate_spec + bytes(12) + struct.pack("=III", queue, 0, 0)
    options = attribute(_TBF_PARMS, parms) + attribute(_TBF_BURST, struct.pack("=I", burst))
    if rate > 0xFFFFFFFF:
        options += attribute(_TBF_RATE64, struct.pack("=Q", rate))
    return options


def _netem(link: Link) -> bytes:
    delay, jitter = (round((seconds or 0.0) * 1e9) for seconds in (link.delay, link.jitter))
    loss = round((link.loss or 0.0) / 100 * 0xFFFFFFFF)
    ticks = [min(value >> _TICK, 0xFFFFFFFF) for value in (delay, jitter)]
    return (
        struct.pack("=IIIIII", ticks[0], _NETEM_PACKETS, loss, 0, 0, ticks[1])
        + attribute(_NETEM_LATENCY64, struct.pack("=q", delay))
        + attribute(_NETEM_JITTER64, struct.pack("=q", jitter))
    )


def _redirect(index: int, to: int) -> Request:
    """A filter that takes every packet that arrives on a device out through another one."""
    everything = struct.pack("=BBBxHHhhI", _U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + struct.pack("=IIii", 0, 0, 0, 0)
    mirred = struct.pack("=IIiiiiI", 0, 0, _STOLEN, 0, 0, _EGRESS_REDIRECT, to)
    action = attribute(_ACTION_KIND, b"mirred\0") + attribute(_ACTION_OPTIONS, attribute(_MIRRED_PARMS, mirred))
    options = attribute(_U32_SELECTOR, everything) + attribute(_U32_ACTIONS, attribute(1, action))
    body = _TC.pack(0, index, 0, _INGRESS_HANDLE, 1 << 16 | _ALL_PROTOCOLS)
    body += attribute(_KIND, b"u32\0") + attribute(_OPTIONS, options)
    return request(_RTM_NEWTFILTER, CREATE | EXCLUSIVE, body, f"redirect device {index}")
