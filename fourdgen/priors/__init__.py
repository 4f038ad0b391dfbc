"""What is known about pictures before any 3D: masks, optical flow. Classical ways are always there."""
