"""Agreement of masks and predictions with a reference: pure functions on arrays."""
