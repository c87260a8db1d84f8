"""Run directories: what a search or a training leaves on disk, and how it is read again."""
