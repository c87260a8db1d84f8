"""The operations on the edges of a space, and how an edge mixes them."""
