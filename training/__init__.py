"""Training of PASTA-AID's models; run from a checkout, never installed."""
