package main

import (
	"errors"
	"runtime"

	"github.com/spf13/pflag"
)

// addPlatformFlags binds podman's way to name a platform.
func addPlatformFlags(f *pflag.FlagSet, os, arch, variant *string) {
	f.StringVar(os, "os", "", "operating system that it is for")
	f.StringVar(arch, "arch", "", "architecture that it is for")
	f.StringVar(variant, "variant", "", "variant of the architecture")
}

// joinPlatform makes one name of the two ways to give a platform.
func joinPlatform(platform, os, arch, variant string) (string, error) {
	if os == "" && arch == "" && variant == "" {
		return platform, nil
	}
	if platform != "" {
		return "", usageError{errors.New("--platform says all that --os, --arch and --variant say")}
	}
	if os == "" {
		os = "linux"
	}
	if arch == "" {
		arch = runtime.GOARCH
	}
	platform = os + "/" + arch
	if variant != "" {
		platform += "/" + variant
	}
	return platform, nil
}
