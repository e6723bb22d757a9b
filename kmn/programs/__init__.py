"""What kmn's own programs in pods (``kmn.dns``, ``kmn.ingress``) share: the pods to run in."""
