"""Phoebus screens, made from the declarations in `pvdb`: `python -m opi` writes the .bob files beside this package."""
