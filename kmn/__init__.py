"""kmn: Kubernetes networking, emulated on real packets.

The public Python API is :class:`kmn.Cluster`; everything else is reached through the Kubernetes API that a
running cluster serves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kmn.cluster import Cluster as Cluster

__all__ = ["Cluster", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``kmn.Cluster`` on first use: importing the package itself costs nothing."""
    if name == "Cluster":
        from kmn.cluster import Cluster

        return Cluster
    raise AttributeError(f"module 'kmn' has no attribute {name!r}")
