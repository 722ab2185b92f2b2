"""Which case to read next: scores, the order they give, and leases so that no two readers meet."""

from pasta.active.leases import Lease, Leases
from pasta.active.selection import farthest_first, hybrid, k_center_greedy, ranks, shuffled

__all__ = ["Lease", "Leases", "farthest_first", "hybrid", "k_center_greedy", "ranks", "shuffled"]
