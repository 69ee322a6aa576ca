"""What `sandq demo` runs: real work on real input, without anything to install or download."""
