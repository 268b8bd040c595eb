"""How the things that ship with the package are made."""
