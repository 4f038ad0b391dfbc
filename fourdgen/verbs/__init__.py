"""What the verbs of the command line do, and the options that they share."""
