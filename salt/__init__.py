"""Salt segmentation for the TGS Salt Identification Challenge, ready to be flattened into one Kaggle notebook.

Importing the package imports nothing else: each module is imported by name, so that numpy-only work (scoring,
run-length encoding, submissions) starts without TensorFlow and OpenCV.
"""

__version__ = "0.1.0"
