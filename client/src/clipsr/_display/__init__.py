"""Texts and data URIs for people, shared by the command line and the web pages."""
