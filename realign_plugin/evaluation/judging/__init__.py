"""The judges of answers: which are chosen, what they are asked, how their replies are read."""
