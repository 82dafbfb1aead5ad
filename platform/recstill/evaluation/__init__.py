"""How good a model is, and whether distilling it helped."""
