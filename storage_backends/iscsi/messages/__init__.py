"""RFC 7143 chapter 11, the iSCSI PDUs: what each says, where its fields stand, and what surrounds them on the wire."""
