"""Die while writing the file that the first argument names; without torch, so that a start takes no second."""

import os
import sys
from pathlib import Path

from continuo.system.files import atomic_write

with atomic_write(Path(sys.argv[1])) as temporary:
    for unfinished in (temporary, temporary.with_name(".tmpdHTJoD")):  # the second is named as safetensors does
        unfinished.write_bytes(b"half")
    os._exit(9)
