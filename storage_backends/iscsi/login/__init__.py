"""The login phase: RFC 7143 chapter 6 with the keys of chapters 12 and 13, for both sides, without I/O."""
