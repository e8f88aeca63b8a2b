"""The resumable work of making a split of a data set."""
