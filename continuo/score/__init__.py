"""Written music to timed notes, and timed notes to sound."""
