"""Both ends of an NBD connection without I/O: chunks go in, facts come out.

Nothing here knows a clock, for nothing in NBD depends on time: timeouts are the block layer's. The caller sends what
``chunks_to_send`` has collected (the handshake, and errors the server core answers by itself) and what each request or
reply returns. Headers are bytes and payload goes by reference, as the kernel copies the one and references the pages of
the other. ``bytes_wanted`` is what a receiver that never reads ahead asks its socket for: 16 bytes of a reply header,
then the length of a READ.
"""
