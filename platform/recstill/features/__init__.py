"""The feature store: the only package that imports feast."""
