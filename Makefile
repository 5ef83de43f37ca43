# Every target is a command of ./dev, which needs nothing but Python 3.11. Say PYTHON=... to use another interpreter.
PYTHON ?= python3

.PHONY: setup demo test test-servers test-cluster lint docs bench doctor clean
setup demo test test-servers test-cluster lint docs bench doctor clean:
	@$(PYTHON) dev $@
