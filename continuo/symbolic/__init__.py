"""Music as notes: songs, the three encodings of them, notation, and writing MIDI and MusicXML."""
