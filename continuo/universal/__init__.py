"""The codec for all music: fixed codes, shipped with the project, and the network that decodes them."""
