"""One machine, assembled: it wires the rooms below and shows them; it decides nothing."""
