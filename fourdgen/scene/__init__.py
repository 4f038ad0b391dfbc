"""The asset: surfels, their motion, and the files that hold them."""
