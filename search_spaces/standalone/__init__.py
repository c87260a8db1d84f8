"""What a Flax file of a trained network consists of: definitions that are copied, and what stands in for the toolkit's."""
