"""The functions of the Python API, as `fedpeft/__init__.py` exports them."""
