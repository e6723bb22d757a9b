"""OpenFlow 1.5 as the command line speaks it to bridges: it listens and counts. Programming them is the controller's.

``messages`` are bytes and what they mean, ``channel`` is a connection, ``cookie`` says whose a flow is.
"""
