"""Both databases for the tests of rollouts."""

from tests.support.postgres import cluster, place

__all__ = ["cluster", "place"]
