"""Applications: what they are written with, and how their handlers are served."""
