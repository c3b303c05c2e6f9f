"""What runs have left in their folders. Imports neither torch nor labml."""
