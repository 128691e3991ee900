"""Shows what each capacity ratio of a vmoe bundle costs and gives, and what its routers do, in one page."""
