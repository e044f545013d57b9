# Thin: the work is in cargo and in dev/. The two that matter are `make run` and `make test`.

.PHONY: help run build test prove bench fmt lint clean-servers $(addprefix prove-,1 2 3 4 5 6 7 8 9 balancing graceful reloads)

run:            ## serve the demo until ^C
	@dev/run

help:           ## this list
	@sed -n 's/^\([a-z]*[-a-z]*\): *## /  \1\t/p' Makefile | expand -t 18

build:          ## the gateway and its plugins as components
	@dev/build

test:           ## everything that must hold before a change is merged
	@dev/test

prove:          ## every figure that the project claims, in order
	@dev/prove 1 2 3 4 5 6 7 8 9 balancing graceful reloads

prove-1 prove-2 prove-3 prove-4 prove-5 prove-6 prove-7 prove-8 prove-9 prove-balancing prove-graceful prove-reloads:
	@dev/prove $(@:prove-%=%)

bench:          ## one run, one set of tables: the ladder and the peers
	@bench/all

fmt:            ## format everything
	@cargo fmt --all

lint:           ## what CI refuses
	@dev/lint

clean-servers:  ## end what a killed `make run` or bench left behind
	@dev/clean-servers
