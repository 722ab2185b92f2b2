"""Reader studies on this server: sessions, precomputed AI, what coordinators see."""
