"""TensorFlow at this desk: as fast as the machine allows, and without the lines that it writes at its start."""

import os

from salt.machine import fast_switches, quiet_stderr


def import_keras() -> None:
    """Sets what TensorFlow reads when it is imported, and imports it with Keras; for verbs that compute with a network.

    What the user's own environment says stays.
    """
    os.environ.update(fast_switches(os.environ))
    with quiet_stderr():
        import keras  # noqa: F401
