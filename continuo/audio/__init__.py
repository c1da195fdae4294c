"""Sound: decoding, resampling, loudness, STFT, phase reconstruction, and the codec for spectra."""
