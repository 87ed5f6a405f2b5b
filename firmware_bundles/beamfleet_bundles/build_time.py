"""Owns when this software was built, as one number; part of the resident agent."""

BUILD_TIME = 1_793_491_200
"""2026-11-01: no device with this software lives before it. Moved forward with each release."""
