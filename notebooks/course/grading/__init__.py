"""The course's machinery: it hands out assignments and grades them where the student's code cannot
look.

It lives beside the assignments and not in `corea`, since it is of use only in a checkout: tests
compare with the library, on tracked records, and both are what students must not read.
"""
