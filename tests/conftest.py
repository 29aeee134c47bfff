"""What every test needs of the process that runs it."""

import signal

# A job that a shell started in the background ignores Ctrl-C, and so would every
# child of it: the tests that interrupt one would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
