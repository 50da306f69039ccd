"""The public test kit: a contract class per interface, fakes and fixtures for plugin authors."""
