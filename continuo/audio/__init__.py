"""Sound: decoding, resampling, loudness, STFT, phase reconstruction and stereo."""
