"""The codec of sound: fixed codes, shipped with the project, and the network that decodes them."""
