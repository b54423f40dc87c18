"""Dumps of keys and rows, as embedding servers and their trainers write them."""
