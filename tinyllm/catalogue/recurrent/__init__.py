"""Ops whose state goes from token to token: a row for each sequence, where attention has pages."""
