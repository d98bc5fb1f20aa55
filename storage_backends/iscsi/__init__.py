"""iSCSI (RFC 7143): codec, connection cores, initiator and target."""
