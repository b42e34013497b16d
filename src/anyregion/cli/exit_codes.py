"""What a command's exit code says."""

FINE = 0
FAILED = 1
USAGE = 2  # argparse's own
SET_ASIDE = 3
INTERRUPTED = 130

EPILOG = """\
exit codes:
  0    all is well
  1    an error; nothing useful was done
  2    the command line was not understood
  3    done, but something was set aside: an image or a region that cannot be used
  130  interrupted (Ctrl-C or SIGTERM): what is finished is kept
"""
