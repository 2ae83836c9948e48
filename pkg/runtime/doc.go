// Package runtime is the OCI runtime personality over libcontainer.
package runtime
