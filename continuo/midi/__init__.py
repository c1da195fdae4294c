"""The bytes of MIDI files as events."""
