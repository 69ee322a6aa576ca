"""One file per system: how its workers are started, how its jobs are added, and how the server shows their end."""
