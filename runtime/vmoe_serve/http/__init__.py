"""The endpoints of the service on Ray. Each module contains a group of the endpoints in `vmoe_serve.endpoints`.

Each row of `ENDPOINTS` has one function.
"""
