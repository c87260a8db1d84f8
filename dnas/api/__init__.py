"""What a person calls: one function a file, each a sub-command of `dnas` too. `import dnas` offers them as dnas.search etc."""
