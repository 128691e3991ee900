"""The endpoints of the service on Ray: one module for each group, one function for each row of `vmoe_serve.endpoints`."""
