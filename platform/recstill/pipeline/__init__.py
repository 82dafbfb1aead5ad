"""What a run is made of: results that are known by everything that decided them."""
