"""Images: from files or drawn, augmented, and written back."""
