"""The stages of a run, one file each. A stage never imports another."""
