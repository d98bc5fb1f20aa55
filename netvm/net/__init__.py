"""Packets from socket to link and back, and the memory they take."""
