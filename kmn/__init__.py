"""kmn: Kubernetes networking, emulated on real packets.

The public Python API is :class:`kmn.Cluster`; everything else is reached through the Kubernetes API that a
running cluster serves.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
