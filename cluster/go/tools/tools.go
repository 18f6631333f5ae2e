//go:build tools

// Package tools names what is built from this module, so that `go mod tidy` keeps its dependencies.
package tools

import (
	_ "github.com/containernetworking/cni/cnitool"
	_ "helm.sh/helm/v3/cmd/helm"
)
