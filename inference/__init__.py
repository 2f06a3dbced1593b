"""From a stored instance to a place in the queue."""
