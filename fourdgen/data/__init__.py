"""What comes in: videos, pictures, cameras, and the records that the stages hand to each other."""
