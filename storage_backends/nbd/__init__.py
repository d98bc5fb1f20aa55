"""The Network Block Device protocol: codec, connection cores, client and server."""
