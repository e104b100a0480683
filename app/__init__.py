"""Bursar runs Claude agents for other programs."""
