PYTHON ?= .venv/bin/python
.DEFAULT_GOAL := help
PROTOC := $(PYTHON) -m grpc_tools.protoc -Iproto
.PHONY: proto
proto:  ## Regenerate the protobuf modules beside their .proto files.
	PATH="$(dir $(PYTHON)):$$PATH" $(PROTOC) --python_out=proto --mypy_out=quiet:proto $$(find proto -name '*.proto' | sort)
	PATH="$(dir $(PYTHON)):$$PATH" $(PROTOC) --grpc_python_out=proto --mypy_grpc_out=quiet:proto $$(find proto -name '*_service.proto' | sort)
