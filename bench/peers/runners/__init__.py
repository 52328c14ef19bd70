"""One file for each system. They run as processes, most of them in the peers' environment.

What they import beside their system is the standard library and `bench.peers.recorder` and
`bench.peers.serve`.
"""
