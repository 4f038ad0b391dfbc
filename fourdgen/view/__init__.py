"""The live viewer: `fourdgen view`, an asset or a run in the browser, drawn by our own renderer."""
