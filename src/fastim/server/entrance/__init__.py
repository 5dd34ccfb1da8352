"""The entrance: who comes in, as whom, to which place, and who has to go."""
