"""`vmoe fewshot`: a head for other classes, from a few labelled images of each."""
