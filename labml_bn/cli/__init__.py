"""What all commands share: their form and exit status, errors, atomic files, tables of text."""
