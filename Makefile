PYTHON ?= python3

help:
	@echo "demo test check bench docs clean"
