"""Tables of published results of trained networks, as arrays. For reports; no search reads them."""
