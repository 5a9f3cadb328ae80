"""The addresses of the server, a file for each group. `make_app` puts them together."""
