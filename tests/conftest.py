"""Before all tests."""

import gc

# torch and what collecting tests leaves are a million objects, in which Python would look for garbage again
# and again: a twelfth of the time of the tests.
gc.set_threshold(100_000, 50, 100)
