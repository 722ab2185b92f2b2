"""Side-by-side ratios against peers, one command: `make benchmark`."""
