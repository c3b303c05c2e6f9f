"""The network of a finished run: its weights, its evaluation, its mistakes, its predictions, its export."""
