"""Masked autoencoders that repair facades."""
