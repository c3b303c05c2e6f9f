"""The four operations that every backend implements: moments, normalize, gradient_sums and input_gradient."""
