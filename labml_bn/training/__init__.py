"""One run, from its settings to its weights. The only package that imports labml."""
