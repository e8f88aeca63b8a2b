"""Region proposals: the RPN that is trained on pseudo labels, and random regions."""
