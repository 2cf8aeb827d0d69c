"""The `morl` command; `morl.cli.main` reads it, one module a subcommand runs it."""
