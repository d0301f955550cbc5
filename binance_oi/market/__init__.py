"""Many symbols at one moment, and again and again."""
