"""The four verbs (`moments`, `normalize`, `gradient_sums`, `input_gradient`), once per kind of hardware."""
