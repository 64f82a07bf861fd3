"""Kernels at this desk: what a notebook finds mounted, the sandbox around it, and what becomes of its outputs."""
