"""Ingress: requests from outside reach Services by host and path, through Envoy in the pods of an ingress controller.

Data flows one way: objects → ``state`` (what is known) → ``classes`` and ``routing`` (pure: which Ingresses a
controller takes, what they say) → ``backends`` and ``certificates`` (pure: endpoints, key pairs) → ``envoy``
(pure: configuration as data) → ``proxy`` (files and the process in one pod). ``manifests`` has the objects that make a
controller, ``status`` what is written back. How packets come to the pods is the business of Services, not of this
package's.
"""
