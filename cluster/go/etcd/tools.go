//go:build tools

// Package tools names what is built from this module, so that `go mod tidy` keeps its dependencies.
package tools

import _ "go.etcd.io/etcd/server/v3"
