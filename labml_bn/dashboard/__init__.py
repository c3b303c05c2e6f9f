"""labml's web dashboard for the runs in a folder. It needs no account, no database server and no internet."""
