"""The images: where the files come from, the data sets as tensors and batches, and images from other files."""
