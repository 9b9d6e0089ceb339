"""Talking to the served model, on the terminal or in a browser: compare, colour an answer by its signal, rate it."""
