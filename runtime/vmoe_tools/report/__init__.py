"""`vmoe report`: writes an HTML page with cost and accuracy at each capacity ratio, and the routing of images."""
