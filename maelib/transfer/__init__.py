"""What the encoder learned, put to other tasks."""
