# Thin: the work is in cargo and in dev/. The two that matter are `make run` and `make test`.

PROOFS = 1 2 3 4 5 6 7 8 9 balancing graceful reloads http2 h2spec slow websocket autobahn grpc tls cpu-http2

.PHONY: help run build test prove bench fmt lint clean-servers $(addprefix prove-,$(PROOFS))

run:            ## serve the demo until ^C
	@dev/run

help:           ## this list
	@sed -n 's/^\([a-z]*[-a-z]*\): *## /  \1\t/p' Makefile | expand -t 18

build:          ## the gateway and its plugins as components
	@dev/build

test:           ## everything that must hold before a change is merged
	@dev/test

prove:          ## every figure that the project claims, in order
	@dev/prove $(PROOFS)

$(addprefix prove-,$(PROOFS)):
	@dev/prove $(@:prove-%=%)

bench:          ## one run, one set of tables: the ladder and the peers
	@bench/all

fmt:            ## format everything
	@cargo fmt --all

lint:           ## what CI refuses
	@dev/lint

clean-servers:  ## end what a killed `make run` or bench left behind
	@dev/clean-servers
