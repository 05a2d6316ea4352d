"""The Python models of the repository as Triton sees them; `model_repository/*/1/model.py` name them.

Only modules in here and `backends/_triton.py` need `triton_python_backend_utils`, which exists inside Triton alone.
"""
