"""The endpoints of the service on Ray. Each module contains some of the endpoints in `vmoe_serve.endpoints`.

For each row of `ENDPOINTS`, one of the modules has a function whose name is the row's name.
"""
