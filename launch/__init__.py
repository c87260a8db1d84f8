"""The `dnas` command: one file a sub-command."""
