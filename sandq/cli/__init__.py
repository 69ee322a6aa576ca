"""The command line: argv in, exit code out. Every command is imported when it is used."""
