"""The Ryu (os-ken) application that turns Kubernetes objects into the flows of every node's bridge.

Objects come in by list and watch, flows go out in OpenFlow 1.5 bundles, and ``DataPlane/default`` says how far they
are. Of ``kmn`` only ``kmn.k8s`` is imported.
"""
