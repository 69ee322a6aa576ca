"""How fast sandq and its peers are, and what a job costs them."""
