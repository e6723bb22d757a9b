"""Flows and groups as data: what they say (ovs-ofctl text), and their bytes in OpenFlow 1.5.

Every element (match field, action) carries both forms from the start, made once and shared, so that packing a message
is joining bytes. Nothing in here knows Kubernetes, sockets or os-ken.
"""
