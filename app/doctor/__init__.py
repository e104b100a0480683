"""`python -m app doctor`: what is written down, held against itself. It only reads."""
