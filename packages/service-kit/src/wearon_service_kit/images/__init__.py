"""Pictures from strangers: the one way to download them (`fetch`) and the one way to open them (`decode`)."""
