"""Tables of tensor names, one file a network: an original file's names and diffusers'."""
