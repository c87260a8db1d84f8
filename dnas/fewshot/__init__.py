"""Few-shot search: a supernet is split into several, each of which has some of the operations."""
