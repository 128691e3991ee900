"""The endpoints of the service on Ray. Each module contains a group of the endpoints in `vmoe_serve.endpoints`.

For each row of `ENDPOINTS`, one module has a function of the row's name.
"""
