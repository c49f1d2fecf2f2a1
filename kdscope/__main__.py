"""`python -m kdscope`, and so `torchrun --nproc-per-node 2 -m kdscope train ...`."""

from kdscope.cli.main import main

if __name__ == "__main__":
    main()
