"""The commands of mgdt, one file each."""
