"""The Kubernetes vocabulary that every part of kmn shares: resources, objects, selectors, errors, the API client.

Nothing in here knows about Mininet, Open vSwitch or the server; ``controller/`` imports this package and no other
package of kmn.
"""
