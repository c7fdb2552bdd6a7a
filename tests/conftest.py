"""For every test: Ctrl-C works, also where make itself was started in the background of a shell."""

import signal

# Such a shell has it ignored, and children inherit that: `aiflow events listen` would never hear of it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
