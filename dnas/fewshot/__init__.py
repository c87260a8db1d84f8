"""Few-shot search: a supernet is split into several, each of which has some of the operations."""

SPLIT = "split", "splits", "split_epochs", "split_batches", "split_weights", "split_train_epochs"
"""Options of a few-shot search, which are the part `split` of a config."""
