"""The command line of pf_keras from a checkout. An installed package has the same as `pf-keras`."""

import sys

from pf_keras.cli import main

if __name__ == "__main__":
    sys.exit(main())
