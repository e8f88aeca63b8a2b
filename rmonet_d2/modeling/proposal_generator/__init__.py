"""Region proposals: an RPN that is trained on pseudo labels, and random regions."""
