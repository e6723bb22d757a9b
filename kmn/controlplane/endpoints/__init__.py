"""Which pods stand behind a Service: EndpointSlices, and the older Endpoints.

``compute`` says what the endpoints are, ``packing`` distributes them over slices, ``controller`` keeps the slices and
Endpoints of Services with a selector, ``mirroring`` turns Endpoints that users made into slices.
"""

from kmn.controlplane.endpoints.controller import EndpointSlices
from kmn.controlplane.endpoints.mirroring import Mirroring

__all__ = ["EndpointSlices", "Mirroring"]
