"""Keras at this desk: as fast as the machine allows, and without the lines that TensorFlow writes at its start."""

import os

from salt.machine import fast_switches, import_keras


def start_keras() -> None:
    """Sets what TensorFlow reads when it is imported, and imports it with Keras; for verbs that compute with a network.

    What the user's own environment says stays.
    """
    os.environ.update(fast_switches(os.environ))
    import_keras()
