"""What several of our exchanges are made of."""
