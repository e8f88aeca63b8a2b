"""Small helpers that know nothing about models; importing this package is cheap."""
