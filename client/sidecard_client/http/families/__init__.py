"""The APIs that transports know, one file each.

A file defines ``FAMILY``, an instance of a `family.ApiFamily`. `recognition.families` lists this package, so adding an API means
adding a file.
"""
