// Package config has the option types that containers/image passes on to
// ocicrypt. They hold nothing here.
package config

// EncryptConfig would say for whom to encrypt.
type EncryptConfig struct{}

// DecryptConfig would say with which keys to decrypt.
type DecryptConfig struct{}
