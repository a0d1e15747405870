"""Measure what running a program in a sandbox costs."""
