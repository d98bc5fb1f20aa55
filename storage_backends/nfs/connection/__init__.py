"""NFS on paper: calls and replies on a stream, which procedure means what, when to ask again, and what is not yet safe.

Nothing here waits, allocates or knows a clock: chunks and instants go in, facts come out.
"""
