"""Admission control: how much work is accepted, and fair turns between calls."""
