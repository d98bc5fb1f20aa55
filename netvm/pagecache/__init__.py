"""File pages and their dirt: address spaces, buffered I/O, the flusher, and the throttling of those who dirty."""
