"""Virtual time and the tasks that live in it, on trio: who waits, who wakes, who runs next."""
