# Everything that people and CI do with this repository. `make` alone lists it.
#
# Tools are pinned in go.mod (tool directive). gcc comes from the system: the race detector links with it, make conformance and
# the guests are compiled with it. What make proto (which needs protoc) and make guests make is committed.

GO       = go
VERSION := $(shell git describe --always --dirty --tags 2>/dev/null || echo unknown)

SEEDS    = 1000
KILLS    = 20
CASES    = 200000
WORK     = regress:5
FUZZTIME = 10s
TESTFLAGS =

# Long runs set their own length; go test's ten minutes do not apply to them.
LONG = -count=1 -timeout=0

# The packages that have goroutines, or whose tests do; the others are sequential by the rules
# of the house, and the race detector has nothing to find there.
CONCURRENT = ./host/... ./replica/... ./vmm/kvm/...

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## the static binary ./ftvm
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-X main.version=$(VERSION)' -o ftvm ./cmd/ftvm

.PHONY: lint
lint: ## gofmt, go vet, staticcheck; also of the mutation build, and of engine soft for hosts that it has no compiler for
	@unformatted=$$(gofmt -l .) && test -z "$$unformatted" || { echo "gofmt these: $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags simfault ./...
	GOARCH=arm64 $(GO) vet ./vmm/soft/...
	$(GO) tool staticcheck ./...
	$(GO) tool staticcheck -tags simfault ./...

.PHONY: test
test: lint ## lint, then all tests, and those with goroutines under the race detector
	$(GO) test $(TESTFLAGS) ./...
	$(GO) test $(TESTFLAGS) ./vmm/soft -interpret
	CGO_ENABLED=1 $(GO) test -race $(TESTFLAGS) $(CONCURRENT)

.PHONY: conformance
conformance: ## every engine against the contract, soft against this host's CPU; CASES=n (needs gcc, /dev/kvm)
	$(GO) test -count=1 -v -run TestConformance ./vmm/...
	$(GO) test $(LONG) -v ./vmm/soft -run 'TestSilicon|TestCorpus' -cases=$(CASES)

.PHONY: demo
demo: build ## primary, backup, SIGKILL, takeover: watch it
	FTVM_BIN=$(CURDIR)/ftvm $(GO) run ./test/demo

.PHONY: sim
sim: ## the protocol under injected faults; SEEDS=n
	$(GO) test $(LONG) -v ./test/sim -run TestSeeds -seeds=$(SEEDS)

.PHONY: mutations
mutations: ## the simulator must find each protocol rule that is switched off
	$(GO) test $(LONG) -v -tags simfault ./test/sim -run TestRulesAreNeeded

.PHONY: failover
failover: ## real processes and SIGKILL at random moments; KILLS=n
	$(GO) test $(LONG) ./test/failover -v -run TestKills -kills=$(KILLS)

.PHONY: bench
bench: build ## replicated against plain, time to take over, engine soft against QEMU; TESTFLAGS="-only linux" (see test/bench/doc.go)
	FTVM_BIN=$(CURDIR)/ftvm $(GO) run ./test/bench $(TESTFLAGS)

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME each
	@set -e; for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "== $$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; \
	done

.PHONY: proto
proto: ## regenerate proto/*.pb.go (needs protoc)
	@mkdir -p .bin
	GOBIN=$(CURDIR)/.bin $(GO) install google.golang.org/protobuf/cmd/protoc-gen-go
	protoc --plugin=.bin/protoc-gen-go --go_out=. --go_opt=paths=source_relative proto/*.proto

.PHONY: guests
guests: ## rebuild the embedded guest (needs gcc)
	$(MAKE) -C guests/ledger

.PHONY: guest-linux
guest-linux: ## Debian's cloud kernel and an initrd with busybox, by apt (guests/linux/README.md)
	guests/linux/build

.PHONY: guest-linux-debian
guest-linux-debian: ## the same, and a disk with Debian's user space (needs root)
	guests/linux/build debian

.PHONY: guest-linux-services
guest-linux-services: ## a disk that boots a Debian with PostgreSQL and Redis (needs root, mmdebstrap, fdisk)
	guests/linux/build services

.PHONY: linux
linux: ## a Debian kernel on engine soft, alone and replicated; TESTFLAGS=-long for its self-tests (see guest-linux)
	$(GO) test $(LONG) -v ./test/linux $(TESTFLAGS)

.PHONY: test-linux
test-linux: KILLS = 10
test-linux: ## hosts die under a Debian with PostgreSQL and Redis; KILLS=n (needs root and guest-linux-services)
	$(GO) test $(LONG) -v ./test/services -kills=$(KILLS)

.PHONY: soak
soak: ## PostgreSQL's regression tests in lockstep, for an hour or so; WORK=regress:n (needs root and guest-linux-services)
	$(GO) test $(LONG) -v ./test/services -run TestSoak -soak=$(WORK)

.PHONY: stock-kvm
stock-kvm: ## the engine contract on upstream KVM, in QEMU; RUN='[-f FILE]... COMMAND' for another command
	test/stockkvm/run $(RUN)

.PHONY: clean
clean: ## remove what was built and is not committed
	rm -rf ftvm .bin guests/linux/out
	$(MAKE) -C guests/ledger clean
