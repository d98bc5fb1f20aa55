"""One endpoint of a TCP connection, sans I/O: sequence numbers, sizes and flags in, segments and facts out.

The rooms, lowest first: ``segment`` (what travels), ``config`` (the sysctls and the counters), ``state`` (RFC 9293's
diagram as a table), ``rto`` (round-trip time and the retransmission timer), ``congestion`` (Reno and CUBIC),
``scoreboard`` (what is in flight), ``send_queue`` (what is not sent yet), ``sender`` and ``receiver`` (the two
directions) and ``connection`` (the join, and the only door a shell needs).

None of them allocates, waits, draws a random number or sees a byte of content. The shell around them owns memory,
timers and links: it asks what may be sent, finds memory for it, and says whether that worked.
"""
