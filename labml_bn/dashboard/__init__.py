"""labml's web dashboard over the runs in a folder: no account, no database server, nothing from other machines."""
