# `make` lists the targets. Only make e2e needs more than Go; make lint says what it cannot check without more.

# What the template deploys: its parameter Architecture.
TEMPLATE_ARCH := $(shell sed -n '/^  Architecture:/,/AllowedValues/ s/.*AllowedValues: \[\(.*\)\]/\1/p' template.yaml)
ARCH ?= $(TEMPLATE_ARCH)
BUILD := .build

GOARCH_arm64 := arm64
GOARCH_x86_64 := amd64
# The machine field of the ELF header, bytes 18 and 19.
ELF_arm64 := b700
ELF_x86_64 := 3e00

# lambda.norpc leaves out the protocol of the retired go1.x runtime.
FLAGS := -trimpath -buildvcs=false -tags lambda.norpc -ldflags='-s -w'

.DEFAULT_GOAL := help
.PHONY: help token check run sam-invoke sam-api user-data test lint build build-TokenFunction e2e docs bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-zA-Z0-9-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

token: local ## print a token as JSON; TARGET=repos/acme/widgets KIND=remove-token; with GITHUB_PAT exported, a real one
	@$(BUILD)/local/stack token $(BUILD)/local/bootstrap

check: local ## check all that a token needs, and print the report; TARGET=, ALLOWED_TARGETS=; with GITHUB_PAT, for real
	@$(BUILD)/local/stack check $(BUILD)/local/bootstrap

# Of the settings of token, run takes all. Besides PORT, for HTTP, there is LAMBDA_PORT, for direct invocations (3001).
# ENVIRONMENTS is how many requests are served at a time. With SESSION_TOKEN=1 the keys are temporary. THROTTLE is the
# template's ThrottlingRateLimit/ThrottlingBurstLimit; without it, nothing is throttled.
run: local ## serve on 127.0.0.1:3000 until Ctrl-C; PORT=, LAMBDA_PORT=, ENVIRONMENTS=, SESSION_TOKEN=1, THROTTLE=200/50
	@exec $(BUILD)/local/stack run $(BUILD)/local/bootstrap

sam-invoke: local ## invoke the function in SAM local; EVENT=events/direct-org.json, SAM_ENV= (docs/sam-local.md)
	@exec $(BUILD)/local/stack sam invoke

sam-api: local ## serve in SAM local on 127.0.0.1:3000 until Ctrl-C; PORT=, SAM_ENV=
	@exec $(BUILD)/local/stack sam start-api

user-data: ## print EC2 user data; OS=linux or windows, API_URL=, TARGET=, REGION= (docs/user-data.md)
	@go run ./internal/userdata

# The race detector needs a C compiler. Go says whether it found one.
RACE = $(if $(filter 1,$(shell go env CGO_ENABLED)),-race)

test: ## run all tests but make e2e's
	@test -n "$(RACE)" || { echo "NOT TESTED for races: there is no C compiler" >&2; test "$$CI" != true; }
	go test $(RACE) -shuffle=on -parallel 16 $$(go list ./... | grep -v /e2e/)

lint: ## check formatting, modules, workflows and scripts; look for faults and known vulnerabilities
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "not gofmt-ed: $$unformatted" >&2; exit 1; }
	go vet ./...
	go tool staticcheck ./...
	go mod tidy -diff
	go mod verify
	@.ci/lint

build: ## build the function for Lambda into .build/ARCH/bootstrap; ARCH=arm64 or x86_64
	$(call compile,$(BUILD)/$(ARCH))

# sam build calls this, and does not say for which processor.
build-TokenFunction:
	$(if $(filter $(TEMPLATE_ARCH),$(ARCH)),,$(error ARCH=$(ARCH), but template.yaml deploys $(TEMPLATE_ARCH): \
		unset ARCH, or change the parameter Architecture there))
	$(call compile,$(ARTIFACTS_DIR))

define compile
$(if $(GOARCH_$(ARCH)),,$(error ARCH=$(ARCH) is neither arm64 nor x86_64))
@mkdir -p $(1)
CGO_ENABLED=0 GOOS=linux GOARCH=$(GOARCH_$(ARCH)) go build $(FLAGS) -o $(1)/bootstrap ./functions/token
@elf=$$(od -An -j18 -N2 -tx1 $(1)/bootstrap | tr -d ' '); test "$$elf" = $(ELF_$(ARCH)) || \
	{ echo "$(1)/bootstrap is not for $(ARCH): its ELF machine is $$elf" >&2; exit 1; }
endef

# These are built because go run hands on no signals and no exit status.
.PHONY: local
local:
	@CGO_ENABLED=0 go build $(FLAGS) -o $(BUILD)/local/bootstrap ./functions/token >&2
	@go build -o $(BUILD)/local/stack ./internal/local >&2

# One package after the other, because some measure time and others take every processor.
e2e: ## run the function and all that callers copy against Moto, SAM local, shells, ... (e2e/README.md)
	go test -count=1 -timeout 30m -v -p 1 ./e2e/...

docs: ## make docs/errors.md, and the figures of docs/performance.md, from the code
	@go run ./internal/local/causes >docs/errors.md
	@go run ./internal/fleet -page docs/performance.md

bench: ## measure the function beside a hello-world Lambda, its first answer, and a burst
	@go run ./internal/local/bench

clean: ## remove what the other targets made
	rm -rf $(BUILD) .aws-sam
