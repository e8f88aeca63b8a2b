"""Damaged and hostile input, made at random: nothing but an error for the user may come of it."""
