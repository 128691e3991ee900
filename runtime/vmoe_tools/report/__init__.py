"""`vmoe report`: cost and accuracy of each capacity ratio, and the routing, on one HTML page."""
