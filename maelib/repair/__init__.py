"""Repair of photos, by a model or by classical inpainting, and what it reaches."""
