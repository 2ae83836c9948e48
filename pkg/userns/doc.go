// Package userns enters the user's kept user and mount namespace.
package userns
