"""What `scripts/benchmark.py` measures: this package's code beside what a user would pick instead."""
