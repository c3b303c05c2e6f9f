"""One run, from its settings to its weights. Only this folder imports labml, and only `dashboard/` labml's app."""
