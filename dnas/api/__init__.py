"""What people call: a function a file, each a sub-command too. `import dnas` offers them as dnas.search, dnas.train ..."""
