"""Scores (MusicXML, MIDI) to timed notes, and timed notes to audio and MIDI files."""
