# What is run by hand and by CI. `make test` is the whole check; docs/testing.md says more.

SHELL := /bin/bash
CARGO ?= cargo
# Ends what a failed or interrupted run leaves behind, by pid.
GUARD := scripts/with-cleanup.sh

.PHONY: test setup lint unit integration bench torture test-compose clean-brokers

# Everything in the one dev profile, so that nothing compiles twice. Cheap checks come first.
test: setup lint
	$(GUARD) $(CARGO) test --no-fail-fast

# Brokers, registry and skopeo; does nothing where all is there.
setup:
	scripts/setup.sh

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings

# What needs no broker.
unit:
	$(CARGO) test --lib --bins

# One suite: make integration SUITE=kafka [TEST=part_of_a_name]
integration:
	$(GUARD) $(CARGO) test --test $(SUITE) -- $(TEST)

bench:
	$(GUARD) scripts/bench.sh

torture:
	$(GUARD) scripts/torture.sh

test-compose:
	$(GUARD) scripts/test-compose.sh

# Downloaded jars and built servers; Debian packages stay.
clean-brokers:
	rm -rf "$${RELAY_TEST_TOOLS:-target/brokers}"
