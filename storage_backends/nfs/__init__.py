"""NFS version 3 over ONC RPC: real records and XDR, a client under memory pressure and a server that may share it."""
