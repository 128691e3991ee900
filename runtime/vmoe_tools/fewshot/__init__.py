"""`vmoe fewshot`: fits a head for new classes to a few labelled images of each class."""
