"""What a server exports: the blocks it holds and the disk that takes its time over them."""
